// One kernel source for four compilers: clang for AMD (gfx90a, gfx942: waves of 64; gfx1100,
// gfx1101: waves of 32), clang for NVIDIA (PTX, warps of 32), and clang for the CPU, where the
// tests run kernels with one fiber per work-item (tests/hip_host, either wave size).
//
// What differs between them stands behind this file's names; kernels use nothing else:
//
//   KERNEL(name, threads, waves, args...) { }   an entry point: `threads` work-items per block (a
//                       multiple of 64), at least `waves` waves per SIMD on AMD
//   DEV, METHOD         before a function, a member function
//   LDS                 before a block-shared array; sizes are constants
//   tid() wave() lane() block_x() block_y() block_z()
//   barrier()           of the block; LDS writes before it are seen after it
//   issue_fence()       the compiler moves no instruction across: what is loaded before it is on its way
//   keep_order()        the compiler moves no load across it, to save registers or to gain time
//   shuffle(v, lane) shuffle_xor(v, mask)   of float, u32, i32; all lanes of the wave take part
//   wave_sum(v) wave_max(v)                 the same bits in every lane
//   pick_bytes(low, high, which)            each byte of `which`, below 8, is replaced by that byte of low, then high
//   lds_add(p, v)       *p += v in LDS, atomically among the block's work-items, and what *p was; of
//                       u32 and u64: sums of integers do not depend on the order
//   bf16, f16           storage types: to_float(x), from_float<T>(f) rounds to nearest even
//   fast_exp2 fast_log2 fast_rsqrt          a few ulp
//   Pair<T>, OCTETS octet_row octet_k pair_a pair_b mma         16x16x32 products from 16-byte runs
//   Fragment<T>, Acc, load_a load_b load_a_pair load_b_pair load_b_transposed mma acc_row acc_col acc_slot slot_col
//   column_sum column_max to_b              16x16x16 products, see below
//
// No kernel reads what another block of the same launch wrote. No library, no other header.
#pragma once

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef short i16;
typedef unsigned int u32;
typedef int i32;
typedef unsigned long long u64;
typedef long long i64;

// 4, 8 and 16 bytes loaded at once; addresses are aligned to the size.
typedef u32 u32x2 __attribute__((ext_vector_type(2)));
typedef u32 u32x4 __attribute__((ext_vector_type(4)));
typedef float f32x2 __attribute__((ext_vector_type(2)));
typedef float f32x4 __attribute__((ext_vector_type(4)));

typedef _Float16 f16;
struct bf16 {
  u16 bits;
};

// A fragment is a wave's share of a 16x16 matrix operand; an accumulator that of a 16x16 f32
// result. mma(acc, a, b): acc += A B^T, with A [16, 16] loaded by load_a(p, stride) and B [16, 16]
// by load_b(p, stride), both row by row with k along the row. Value i of a lane's accumulator is
// the result at row acc_row(i), column acc_col(i): A's row, B's row.
// to_b(acc) turns a result, rounded to T, into the B operand of a following product, its row
// becoming that product's k and its column that product's column.
// load_b_transposed(p, stride) loads B from LDS where it lies k by k: B's row along p's rows.
// A lane's values stand in Acc::COLUMNS columns: value i in that of number acc_slot(i), which is
// column slot_col(acc_slot(i)). Lanes l and l ^ m hold other rows of the same columns for each
// power of two m from Acc::ROW_LANES on.
//
// A tile pair is two operands X and Y, [16, 16] each, in 512 consecutive values, so that lanes load
// 16 bytes at once from consecutive addresses: for k4 in 0..4, for row in 0..16: X[row][4 k4 .. + 4],
// Y[row][4 k4 .. + 4]. load_a_pair(p, x, y) and load_b_pair(p, x, y) load both.

// 8 values of 2 bytes.
template <class T>
struct alignas(16) Eight {
  T v[8];
};

// A Pair is two fragments that together hold 16 rows of 32 k-values, made from 16-byte runs: octet i
// of a lane (of OCTETS) is values 8 octet_k(i) .. + 8 of row octet_row(i). Which k goes to which
// fragment differs between ports, but is the same for pair_a and pair_b, so that mma(acc, a, b) of
// pairs sums over all 32.

#if defined(NOVA_HOST)
#include "port_host.h"
#elif defined(__HIP__)
#include "port/amd.h"
#else
#include "port/nvidia.h"
#endif

DEV float to_float(float x) { return x; }
DEV float to_float(f16 x) { return (float)x; }
DEV float to_float(bf16 x) { return __builtin_bit_cast(float, (u32)x.bits << 16); }

template <class A, class B>
constexpr bool same = false;
template <class A>
constexpr bool same<A, A> = true;

// To nearest, ties to even.
template <class T>
DEV T from_float(float x) {
  if constexpr (same<T, bf16>) {
    u32 bits = __builtin_bit_cast(u32, x);
    // A NaN whose payload is only in the low bits must not become infinity. A select, no branch.
    u32 rounded = bits + 0x7fff + ((bits >> 16) & 1);
    return bf16{(u16)(((bits & 0x7fffffff) > 0x7f800000 ? bits | 0x400000 : rounded) >> 16)};
  } else {
    return (T)x;
  }
}

template <class T>
DEV Eight<T> load8(const T* p) { return __builtin_bit_cast(Eight<T>, *(const u32x4*)p); }
template <class T>
DEV void store8(T* p, const Eight<T>& x) { *(u32x4*)p = __builtin_bit_cast(u32x4, x); }

template <class T>
struct Pair {
  Fragment<T> first, second;
};
template <class T>
DEV Pair<T> pair_a(const Eight<T> (&octets)[OCTETS]) { return octet_pair<T, Pair<T>>(octets, true); }
template <class T>
DEV Pair<T> pair_b(const Eight<T> (&octets)[OCTETS]) { return octet_pair<T, Pair<T>>(octets, false); }
template <class T>
DEV void mma(Acc& c, const Pair<T>& a, const Pair<T>& b) {
  mma(c, a.first, b.first);
  mma(c, a.second, b.second);
}
DEV void keep_order() { asm volatile("" ::: "memory"); }

DEV float shuffle_xor(float v, u32 mask) { return shuffle(v, lane() ^ mask); }
DEV u32 shuffle_xor(u32 v, u32 mask) { return shuffle(v, lane() ^ mask); }
DEV i32 shuffle_xor(i32 v, u32 mask) { return shuffle(v, lane() ^ mask); }

DEV float maximum(float a, float b) { return a > b ? a : b; }
DEV float minimum(float a, float b) { return a < b ? a : b; }
DEV u32 minimum(u32 a, u32 b) { return a < b ? a : b; }

// Over `width` lanes, a power of two.
DEV float wave_sum(float v, u32 width = WAVE) {
  for (u32 m = width / 2; m; m /= 2) v += shuffle_xor(v, m);
  return v;
}
DEV u32 wave_sum(u32 v, u32 width = WAVE) {
  for (u32 m = width / 2; m; m /= 2) v += shuffle_xor(v, m);
  return v;
}
DEV float wave_max(float v, u32 width = WAVE) {
  for (u32 m = width / 2; m; m /= 2) v = maximum(v, shuffle_xor(v, m));
  return v;
}

// Over the lanes that hold the same columns of an accumulator.
DEV float column_sum(float v) {
  for (u32 m = Acc::ROW_LANES; m < WAVE; m *= 2) v += shuffle_xor(v, m);
  return v;
}
DEV float column_max(float v) {
  for (u32 m = Acc::ROW_LANES; m < WAVE; m *= 2) v = maximum(v, shuffle_xor(v, m));
  return v;
}

DEV u32 wave() { return tid() / WAVE; }

// Over the block, in an order that does not depend on the wave size: partial sums of 32 lanes are
// added from the first to the last. `scratch` holds THREADS / 32 values and may be reused after
// the next barrier().
template <u32 THREADS>
DEV float block_sum(float v, float* scratch) {
  v = wave_sum(v, 32);
  if (tid() % 32 == 0) scratch[tid() / 32] = v;
  barrier();
  float sum = 0;
  for (u32 i = 0; i < THREADS / 32; i++) sum += scratch[i];
  return sum;
}
DEV float fast_exp(float x) { return fast_exp2(x * 1.4426950408889634f); }
DEV float sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }
