// port.h for the CPU: the names of the device compilers over harness.h, which runs one fiber per
// work-item. -DWAVE=64 emulates CDNA's MFMA, -DWAVE=32 RDNA's WMMA, both at the layout of the
// instruction's own lanes. MI200's MFMA flushes subnormals, operands and results (AMD's MIOpen, "MI200
// MFMA behavior specifics"), which the emulation does when the library plays one.
#pragma once
#include "harness.h"

#define METHOD inline __attribute__((always_inline))
#define DEV static METHOD
// In a section of its own for each file and wave size (LDS_SECTION), so that the harness can poison it
// between blocks; the linker says where it starts and stops.
#define JOINED(a, b) a##b
#define JOIN(a, b) JOINED(a, b)
#define QUOTED(a) #a
#define QUOTE(a) QUOTED(a)
#define LDS static __attribute__((aligned(16), section(QUOTE(LDS_SECTION))))
#define LDS_START JOIN(__start_, LDS_SECTION)
#define LDS_STOP JOIN(__stop_, LDS_SECTION)
extern "C" char LDS_START[] __attribute__((weak)), LDS_STOP[] __attribute__((weak));
#define KERNEL(name, threads, waves, ...)                                   \
  static void name(__VA_ARGS__);                                            \
  static const harness::Registered name##_registered(#name, WAVE, threads, name, LDS_START, LDS_STOP); \
  static void name(__VA_ARGS__)

DEV u32 tid() { return harness::now.tid; }
DEV u32 block_x() { return harness::now.block[0]; }
DEV u32 block_y() { return harness::now.block[1]; }
DEV u32 block_z() { return harness::now.block[2]; }
DEV u32 lane() { return harness::now.tid % WAVE; }

// Where in the kernel a wave operation stands: lanes that meet at different places diverge.
#define SITE ((u64) __builtin_return_address(0))

static __attribute__((noinline, convergent)) void barrier() { harness::barrier(SITE); }
static __attribute__((noinline, convergent)) u32 shuffle(u32 v, u32 from) { return harness::shuffle(v, from % WAVE, WAVE, SITE); }
DEV i32 shuffle(i32 v, u32 from) { return (i32)shuffle((u32)v, from); }
DEV float shuffle(float v, u32 from) {
  return __builtin_bit_cast(float, shuffle(__builtin_bit_cast(u32, v), from));
}

template <class V>
DEV V lds_add(V* p, V v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }

DEV u32 pick_bytes(u32 low, u32 high, u32 which) {
  u64 both = (u64)high << 32 | low;
  u32 picked = 0;
  for (u32 i = 0; i < 32; i += 8) picked |= (u32)(both >> (which >> i & 7) * 8 & 255) << i;
  return picked;
}

DEV void issue_fence() {}

DEV float fast_exp2(float x) { return __builtin_exp2f(x); }
DEV float fast_log2(float x) { return __builtin_log2f(x); }
DEV float fast_rsqrt(float x) { return 1.0f / __builtin_sqrtf(x); }

DEV float to_float(float x);
DEV float to_float(f16 x);
DEV float to_float(bf16 x);
template <class T>
DEV T from_float(float x);

// A product of fragments: every lane shows its operands, then sums its own elements in the order
// of k. `A::at(lane, i)` tells which (row, k) value i of a lane's operand is.
#if WAVE == 64
template <class T>
struct Fragment {
  T v[4];
};
struct Acc {
  static constexpr u32 N = 4, COLUMNS = 1, ROW_LANES = 16;
  float v[4] = {0, 0, 0, 0};
};
DEV u32 acc_row(u32 i) { return lane() / 16 * 4 + i; }
DEV u32 acc_col(u32) { return lane() % 16; }
DEV constexpr u32 acc_slot(u32) { return 0; }
DEV u32 slot_col(u32) { return lane() % 16; }
template <class T>
DEV Fragment<T> load_a(const T* p, u32 stride) {
  return __builtin_bit_cast(Fragment<T>, *(const u32x2*)(p + lane() % 16 * stride + lane() / 16 * 4));
}
template <class T>
DEV void load_a_pair(const T* p, Fragment<T>& x, Fragment<T>& y) {
  struct Both {
    Fragment<T> x, y;
  } both = __builtin_bit_cast(Both, *(const u32x4*)(p + lane() * 8));
  x = both.x;
  y = both.y;
}
// Lane (k / 4) * 16 + row holds (row, k) at k % 4.
template <class T>
static float operand(const Fragment<T>* lanes, u32 row, u32 k) { return to_float(lanes[k / 4 * 16 + row].v[k % 4]); }
template <class T>
DEV Fragment<T> to_b(const Acc& c) {
  Fragment<T> b;
  for (u32 i = 0; i < 4; i++) b.v[i] = from_float<T>(c.v[i]);
  return b;
}
static constexpr u32 OCTETS = 1;
DEV u32 octet_row(u32) { return lane() % 16; }
DEV u32 octet_k(u32) { return lane() / 16; }
template <class T, class P>
DEV P octet_pair(const Eight<T> (&octets)[OCTETS], bool) { return __builtin_bit_cast(P, octets[0]); }
#else
template <class T>
struct alignas(16) Fragment {
  T v[16];
};
struct Acc {
  static constexpr u32 N = 8, COLUMNS = 1, ROW_LANES = 16;
  float v[8] = {0, 0, 0, 0, 0, 0, 0, 0};
};
DEV u32 acc_row(u32 i) { return 2 * i + lane() / 16; }
DEV u32 acc_col(u32) { return lane() % 16; }
DEV constexpr u32 acc_slot(u32) { return 0; }
DEV u32 slot_col(u32) { return lane() % 16; }
template <class T>
DEV Fragment<T> load_a(const T* p, u32 stride) {
  struct Halves {
    u32x4 low, high;
  } halves = {*(const u32x4*)(p + lane() % 16 * stride), *(const u32x4*)(p + lane() % 16 * stride + 8)};
  return __builtin_bit_cast(Fragment<T>, halves);
}
template <class T>
DEV void load_a_pair(const T* p, Fragment<T>& x, Fragment<T>& y) {
  const u32x4* row = (const u32x4*)p + lane() % 16;
  for (u32 k4 = 0; k4 < 4; k4++) {
    u32x4 both = row[k4 * 16];
    __builtin_memcpy(&x.v[4 * k4], &both, 8);
    __builtin_memcpy(&y.v[4 * k4], (const char*)&both + 8, 8);
  }
}
template <class T>
static float operand(const Fragment<T>* lanes, u32 row, u32 k) { return to_float(lanes[row].v[k]); }
template <class T>
DEV Fragment<T> to_b(const Acc& c) {
  Fragment<T> b;
  for (u32 i = 0; i < 8; i++) {
    float other = shuffle(c.v[i], lane() ^ 16);
    b.v[2 * i] = from_float<T>(lane() < 16 ? c.v[i] : other);
    b.v[2 * i + 1] = from_float<T>(lane() < 16 ? other : c.v[i]);
  }
  return b;
}
static constexpr u32 OCTETS = 4;
DEV u32 octet_row(u32) { return lane() % 16; }
DEV u32 octet_k(u32 i) { return i; }
template <class T, class P>
DEV P octet_pair(const Eight<T> (&octets)[OCTETS], bool) { return __builtin_bit_cast(P, octets); }
#endif
template <class T>
DEV Fragment<T> load_b(const T* p, u32 stride) { return load_a(p, stride); }
template <class T>
DEV void load_b_pair(const T* p, Fragment<T>& x, Fragment<T>& y) { load_a_pair(p, x, y); }
template <class T>
DEV Fragment<T> load_b_transposed(const T* p, u32 stride) {
  constexpr u32 N = sizeof(Fragment<T>) / sizeof(T);
  Fragment<T> b;
  for (u32 i = 0; i < N; i++) b.v[i] = p[(N == 4 ? lane() / 16 * 4 + i : i) * stride + lane() % 16];
  return b;
}

// bf16 has the exponents of f32.
template <class T>
static constexpr float LEAST_NORMAL = __is_same(T, f16) ? 0x1p-14f : 0x1p-126f;
template <class T, u32 N>
static void flush(T (&values)[N]) {
  for (T& value : values)
    if (__builtin_fabsf(to_float(value)) < LEAST_NORMAL<T>) value = T{};
}

template <class T>
static __attribute__((noinline, convergent)) void mma(Acc& c, Fragment<T> a, Fragment<T> b) {
  struct Operands {
    Fragment<T> a[WAVE], b[WAVE];
  };
  bool flushes = harness::flushes_subnormals();
  if (flushes) flush(a.v), flush(b.v), flush(c.v);
  Operands& shared = *(Operands*)harness::wave_scratch(sizeof(Operands), WAVE);
  shared.a[lane()] = a;
  shared.b[lane()] = b;
  harness::meet(SITE);
#if WAVE == 32
  // The instruction reads an operand from either half of the wave: they must agree.
  if (__builtin_memcmp(&shared.a[lane()], &shared.a[lane() ^ 16], sizeof a) ||
      __builtin_memcmp(&shared.b[lane()], &shared.b[lane() ^ 16], sizeof b))
    harness::fail("operands of a WMMA differ between the halves of the wave");
#endif
  for (u32 i = 0; i < Acc::N; i++)
    for (u32 k = 0; k < 16; k++) c.v[i] += operand(shared.a, acc_row(i), k) * operand(shared.b, acc_col(i), k);
  if (flushes) flush(c.v);
  harness::meet(SITE + 1);
}
