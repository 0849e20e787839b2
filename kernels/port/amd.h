// port.h for AMD: clang's device compiler with no ROCm headers and no device libraries
// (-nogpuinc -nogpulib).
#pragma once

#define __device__ __attribute__((device))
#define __global__ __attribute__((global))
#define __shared__ __attribute__((shared))
#define METHOD __device__ inline __attribute__((always_inline))
#define DEV static METHOD
#define LDS __shared__ __attribute__((aligned(16)))
#define KERNEL(name, threads, waves, ...)                                                        \
  extern "C" __global__ __attribute__((amdgpu_flat_work_group_size(threads, threads),            \
                                       amdgpu_waves_per_eu(waves))) void                         \
  name(__VA_ARGS__)

#if defined(__gfx90a__) || defined(__gfx942__)
#define WAVE 64
#else
#define WAVE 32
#endif

DEV u32 tid() { return __builtin_amdgcn_workitem_id_x(); }
DEV u32 block_x() { return __builtin_amdgcn_workgroup_id_x(); }
DEV u32 block_y() { return __builtin_amdgcn_workgroup_id_y(); }
DEV u32 block_z() { return __builtin_amdgcn_workgroup_id_z(); }

DEV u32 lane() {
#if WAVE == 64
  return __builtin_amdgcn_mbcnt_hi(~0u, __builtin_amdgcn_mbcnt_lo(~0u, 0));
#else
  return __builtin_amdgcn_mbcnt_lo(~0u, 0);
#endif
}

DEV void barrier() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
  __builtin_amdgcn_s_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}

template <class V>
DEV V lds_add(V* p, V v) { return __hip_atomic_fetch_add(p, v, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_WORKGROUP); }

DEV u32 pick_bytes(u32 low, u32 high, u32 which) { return __builtin_amdgcn_perm(high, low, which); }

DEV i32 shuffle(i32 v, u32 from) { return __builtin_amdgcn_ds_bpermute((i32)(from << 2), v); }
DEV u32 shuffle(u32 v, u32 from) { return (u32)shuffle((i32)v, from); }
DEV float shuffle(float v, u32 from) {
  return __builtin_bit_cast(float, shuffle(__builtin_bit_cast(i32, v), from));
}

DEV void issue_fence() { __builtin_amdgcn_sched_barrier(0); }

DEV float fast_exp2(float x) { return __builtin_amdgcn_exp2f(x); }
DEV float fast_log2(float x) { return __builtin_amdgcn_logf(x); }
DEV float fast_rsqrt(float x) { return __builtin_amdgcn_rsqf(x); }

typedef i16 i16x4 __attribute__((ext_vector_type(4)));
typedef f16 f16x4 __attribute__((ext_vector_type(4)));

#if WAVE == 64
// MFMA 16x16x16: lane l holds row l % 16, k 4 (l / 16) .. + 4 of an operand, and rows
// 4 (l / 16) .. + 4 of column l % 16 of the result.
template <class T>
struct Fragment {
  u32x2 v;
};
struct Acc {
  static constexpr u32 N = 4, COLUMNS = 1, ROW_LANES = 16;
  f32x4 v = {0, 0, 0, 0};
};
DEV u32 acc_row(u32 i) { return lane() / 16 * 4 + i; }
DEV u32 acc_col(u32) { return lane() % 16; }
DEV constexpr u32 acc_slot(u32) { return 0; }
DEV u32 slot_col(u32) { return lane() % 16; }

template <class T>
DEV Fragment<T> load_a(const T* p, u32 stride) {
  return {*(const u32x2*)(p + lane() % 16 * stride + lane() / 16 * 4)};
}
template <class T>
DEV Fragment<T> load_b(const T* p, u32 stride) { return load_a(p, stride); }
template <class T>
DEV void load_a_pair(const T* p, Fragment<T>& x, Fragment<T>& y) {
  u32x4 both = *(const u32x4*)(p + lane() * 8);
  x.v = both.xy;
  y.v = both.zw;
}
template <class T>
DEV void load_b_pair(const T* p, Fragment<T>& x, Fragment<T>& y) { load_a_pair(p, x, y); }
template <class T>
DEV Fragment<T> load_b_transposed(const T* p, u32 stride) {
  struct alignas(8) Four {
    T v[4];
  } four;
  p += lane() / 16 * 4 * stride + lane() % 16;
  for (u32 i = 0; i < 4; i++) four.v[i] = p[i * stride];
  return {__builtin_bit_cast(u32x2, four)};
}

DEV void mma(Acc& c, Fragment<bf16> a, Fragment<bf16> b) {
  c.v = __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(__builtin_bit_cast(i16x4, a.v),
                                                  __builtin_bit_cast(i16x4, b.v), c.v, 0, 0, 0);
}
DEV void mma(Acc& c, Fragment<f16> a, Fragment<f16> b) {
  c.v = __builtin_amdgcn_mfma_f32_16x16x16f16(__builtin_bit_cast(f16x4, a.v),
                                              __builtin_bit_cast(f16x4, b.v), c.v, 0, 0, 0);
}
template <class T>
DEV T from_float(float x);
// The result's layout is the operand's.
template <class T>
DEV Fragment<T> to_b(const Acc& c) {
  struct alignas(8) Four {
    T v[4];
  } four;
  for (u32 i = 0; i < 4; i++) four.v[i] = from_float<T>(c.v[i]);
  return {__builtin_bit_cast(u32x2, four)};
}

// Of a pair, the lane's 8 values are its 4 of either fragment.
static constexpr u32 OCTETS = 1;
DEV u32 octet_row(u32) { return lane() % 16; }
DEV u32 octet_k(u32) { return lane() / 16; }
template <class T, class P>
DEV P octet_pair(const Eight<T> (&octets)[OCTETS], bool) { return __builtin_bit_cast(P, octets[0]); }
#else
// WMMA 16x16x16: lanes l and l + 16 both hold row l % 16, all k, of an operand; lane l holds rows
// 2 i + l / 16 of column l % 16 of the result.
typedef i16 i16x16 __attribute__((ext_vector_type(16)));
typedef f16 f16x16 __attribute__((ext_vector_type(16)));
typedef float f32x8 __attribute__((ext_vector_type(8)));
template <class T>
struct Fragment {
  u32x4 low, high;
};
struct Acc {
  static constexpr u32 N = 8, COLUMNS = 1, ROW_LANES = 16;
  f32x8 v = {0, 0, 0, 0, 0, 0, 0, 0};
};
DEV u32 acc_row(u32 i) { return 2 * i + lane() / 16; }
DEV u32 acc_col(u32) { return lane() % 16; }
DEV constexpr u32 acc_slot(u32) { return 0; }
DEV u32 slot_col(u32) { return lane() % 16; }

template <class T>
DEV Fragment<T> load_a(const T* p, u32 stride) {
  const T* row = p + lane() % 16 * stride;
  return {*(const u32x4*)row, *(const u32x4*)(row + 8)};
}
template <class T>
DEV Fragment<T> load_b(const T* p, u32 stride) { return load_a(p, stride); }
template <class T>
DEV void load_a_pair(const T* p, Fragment<T>& x, Fragment<T>& y) {
  const u32x4* row = (const u32x4*)p + lane() % 16;
  u32x4 a = row[0], b = row[16], c = row[32], d = row[48];
  x = {{a.x, a.y, b.x, b.y}, {c.x, c.y, d.x, d.y}};
  y = {{a.z, a.w, b.z, b.w}, {c.z, c.w, d.z, d.w}};
}
template <class T>
DEV void load_b_pair(const T* p, Fragment<T>& x, Fragment<T>& y) { load_a_pair(p, x, y); }
template <class T>
DEV Fragment<T> load_b_transposed(const T* p, u32 stride) {
  struct alignas(32) Sixteen {
    T v[16];
  } all;
  p += lane() % 16;
  for (u32 i = 0; i < 16; i++) all.v[i] = p[i * stride];
  return __builtin_bit_cast(Fragment<T>, all);
}

DEV void mma(Acc& c, Fragment<bf16> a, Fragment<bf16> b) {
  c.v = __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32(__builtin_bit_cast(i16x16, a),
                                                    __builtin_bit_cast(i16x16, b), c.v);
}
DEV void mma(Acc& c, Fragment<f16> a, Fragment<f16> b) {
  c.v = __builtin_amdgcn_wmma_f32_16x16x16_f16_w32(__builtin_bit_cast(f16x16, a),
                                                   __builtin_bit_cast(f16x16, b), c.v);
}
template <class T>
DEV T from_float(float x);
// A lane has every other k of its column; lane ^ 16 has the rest.
template <class T>
DEV Fragment<T> to_b(const Acc& c) {
  struct alignas(32) Sixteen {
    T v[16];
  } all;
  bool odd = lane() / 16 != 0;
  for (u32 i = 0; i < 8; i++) {
    float mine = c.v[i], other = shuffle(mine, lane() ^ 16);
    all.v[2 * i] = from_float<T>(odd ? other : mine);
    all.v[2 * i + 1] = from_float<T>(odd ? mine : other);
  }
  return __builtin_bit_cast(Fragment<T>, all);
}

// Both halves of the wave bring all of their row.
static constexpr u32 OCTETS = 4;
DEV u32 octet_row(u32) { return lane() % 16; }
DEV u32 octet_k(u32 i) { return i; }
template <class T, class P>
DEV P octet_pair(const Eight<T> (&octets)[OCTETS], bool) { return __builtin_bit_cast(P, octets); }
#endif
