// port.h for NVIDIA: clang's CUDA compiler with no CUDA headers and no libdevice
// (-nocudainc -nocudalib); PTX for sm_80, which later GPUs run too.
#pragma once

#define __device__ __attribute__((device))
#define __global__ __attribute__((global))
#define __shared__ __attribute__((shared))
#define METHOD __device__ inline __attribute__((always_inline))
#define DEV static METHOD
#define LDS __shared__ __attribute__((aligned(16)))
#define KERNEL(name, threads, waves, ...) \
  extern "C" __global__ __attribute__((launch_bounds(threads))) void name(__VA_ARGS__)

#define WAVE 32

DEV u32 tid() { return __nvvm_read_ptx_sreg_tid_x(); }
DEV u32 block_x() { return __nvvm_read_ptx_sreg_ctaid_x(); }
DEV u32 block_y() { return __nvvm_read_ptx_sreg_ctaid_y(); }
DEV u32 block_z() { return __nvvm_read_ptx_sreg_ctaid_z(); }
DEV u32 lane() { return __nvvm_read_ptx_sreg_laneid(); }
DEV void barrier() { __syncthreads(); }

DEV u32 lds_add(u32* p, u32 v) { return (u32)__nvvm_atom_add_gen_i((i32*)p, (i32)v); }
DEV u64 lds_add(u64* p, u64 v) { return (u64)__nvvm_atom_add_gen_ll((i64*)p, (i64)v); }

DEV void issue_fence() {}

DEV u32 pick_bytes(u32 low, u32 high, u32 which) {
  // prmt takes its selectors as nibbles.
  u32 pairs = which | which >> 4, selectors = (pairs & 0xff) | (pairs >> 8 & 0xff00), picked;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(picked) : "r"(low), "r"(high), "r"(selectors));
  return picked;
}

DEV i32 shuffle(i32 v, u32 from) { return __nvvm_shfl_sync_idx_i32(~0u, v, (i32)from, 31); }
DEV u32 shuffle(u32 v, u32 from) { return (u32)shuffle((i32)v, from); }
DEV float shuffle(float v, u32 from) {
  return __builtin_bit_cast(float, shuffle(__builtin_bit_cast(i32, v), from));
}

DEV float fast_exp2(float x) { return __nvvm_ex2_approx_ftz_f(x); }
DEV float fast_log2(float x) { return __nvvm_lg2_approx_ftz_f(x); }
DEV float fast_rsqrt(float x) { return __nvvm_rsqrt_approx_ftz_f(x); }

// Two m16n8k16. With g = l / 4 and q = 2 (l % 4), lane l holds of an operand's four 8x8 quarters
// row g, columns q and q + 1; the quarters are A's (0, 0), (8, 0), (0, 8), (8, 8) and B's rows
// 0..8 then 8..16. Of the result: rows g and g + 8, columns q, q + 1, of both halves of columns.
template <class T>
struct Fragment {
  u32 v[4];
};
struct Acc {
  static constexpr u32 N = 8, COLUMNS = 4, ROW_LANES = 4;
  float v[8] = {0, 0, 0, 0, 0, 0, 0, 0};
};
DEV u32 acc_row(u32 i) { return lane() / 4 + i / 2 % 2 * 8; }
DEV u32 acc_col(u32 i) { return lane() % 4 * 2 + i % 2 + i / 4 * 8; }
DEV constexpr u32 acc_slot(u32 i) { return i % 2 + i / 4 * 2; }
DEV u32 slot_col(u32 slot) { return lane() % 4 * 2 + slot % 2 + slot / 2 * 8; }

template <class T>
DEV Fragment<T> load_a(const T* p, u32 stride) {
  const T* first = p + lane() / 4 * stride + lane() % 4 * 2;
  const T* second = first + 8 * stride;
  return {{*(const u32*)first, *(const u32*)second, *(const u32*)(first + 8), *(const u32*)(second + 8)}};
}
template <class T>
DEV Fragment<T> load_b(const T* p, u32 stride) {
  const T* first = p + lane() / 4 * stride + lane() % 4 * 2;
  const T* second = first + 8 * stride;
  return {{*(const u32*)first, *(const u32*)(first + 8), *(const u32*)second, *(const u32*)(second + 8)}};
}

template <class T>
DEV void load_a_pair(const T* p, Fragment<T>& x, Fragment<T>& y) {
  const u32* first = (const u32*)p + (lane() % 4 / 2 * 16 + lane() / 4) * 4 + lane() % 2;
  x = {{first[0], first[32], first[128], first[160]}};
  y = {{first[2], first[34], first[130], first[162]}};
}
template <class T>
DEV void load_b_pair(const T* p, Fragment<T>& x, Fragment<T>& y) {
  const u32* first = (const u32*)p + (lane() % 4 / 2 * 16 + lane() / 4) * 4 + lane() % 2;
  x = {{first[0], first[128], first[32], first[160]}};
  y = {{first[2], first[130], first[34], first[162]}};
}
template <class T>
DEV Fragment<T> load_b_transposed(const T* p, u32 stride) {
  // Lanes 8 i .. 8 i + 8 give the addresses of quarter i's rows.
  p += (lane() / 8 % 2 * 8 + lane() % 8) * stride + lane() / 16 * 8;
  Fragment<T> b;
  asm volatile("{ .reg .u64 a; cvta.to.shared.u64 a, %4;\n"
               "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [a]; }"
               : "=r"(b.v[0]), "=r"(b.v[1]), "=r"(b.v[2]), "=r"(b.v[3])
               : "l"(p)
               : "memory");
  return b;
}

#define NOVA_MMA(type, half)                                                                     \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 "                    \
               "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                           \
               : "+f"(c.v[4 * half]), "+f"(c.v[4 * half + 1]), "+f"(c.v[4 * half + 2]),          \
                 "+f"(c.v[4 * half + 3])                                                         \
               : "r"(a.v[0]), "r"(a.v[1]), "r"(a.v[2]), "r"(a.v[3]), "r"(b.v[2 * half]),         \
                 "r"(b.v[2 * half + 1]))
DEV void mma(Acc& c, Fragment<bf16> a, Fragment<bf16> b) {
  NOVA_MMA("bf16", 0);
  NOVA_MMA("bf16", 1);
}
DEV void mma(Acc& c, Fragment<f16> a, Fragment<f16> b) {
  NOVA_MMA("f16", 0);
  NOVA_MMA("f16", 1);
}

template <class T>
DEV T from_float(float x);
template <class T>
DEV u32 pack2(float a, float b) {
  struct alignas(4) Two {
    T v[2];
  } two = {{from_float<T>(a), from_float<T>(b)}};
  return __builtin_bit_cast(u32, two);
}
// Each 8x8 quarter is transposed within the warp.
DEV u32 transposed(u32 x) {
  u32 y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}
template <class T>
DEV Fragment<T> to_b(const Acc& c) {
  return {{transposed(pack2<T>(c.v[0], c.v[1])), transposed(pack2<T>(c.v[2], c.v[3])),
           transposed(pack2<T>(c.v[4], c.v[5])), transposed(pack2<T>(c.v[6], c.v[7]))}};
}

// A lane's 8 values of rows g and g + 8 are, 4 each, what it holds of either fragment.
static constexpr u32 OCTETS = 2;
DEV u32 octet_row(u32 i) { return lane() / 4 + 8 * i; }
DEV u32 octet_k(u32) { return lane() % 4; }
template <class T, class P>
DEV P octet_pair(const Eight<T> (&octets)[OCTETS], bool a) {
  u32x4 x = __builtin_bit_cast(u32x4, octets[0]), y = __builtin_bit_cast(u32x4, octets[1]);
  if (a) return {{x[0], y[0], x[1], y[1]}, {x[2], y[2], x[3], y[3]}};
  return {{x[0], x[1], y[0], y[1]}, {x[2], x[3], y[2], y[3]}};
}
