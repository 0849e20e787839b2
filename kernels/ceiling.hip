// What a device can do at the most: the ceilings that `novastack bench ops` holds the other kernels against.
//
// ceiling_copy: to = from, `units` of 16 bytes, each read once and written once. Grid: (units / UNITS rounded up).
// Bytes moved per unit: 32. It is memory's bound.
//
// ceiling_mma_T: matrix products of operands that stay in registers, in 8 independent accumulators a wave (2 operands
// of A by 4 of B, as a tile of gemm.h has). operands [6][16][16] T: A's two, B's four. A block does `products` times
// those 8, its waves in turns, whatever the size of a wave: 8 * 2 * 16^3 operations each. out [blocks, THREADS] f32: a
// work-item's sum over its values of all accumulators, so that a block's sum is products * sum of all A B^T. It is the
// bound of matrix products. Grid: (blocks).
// CPU reference: src/backend/hip/ceiling.rs checks both results.
#include "port.h"

static constexpr u32 THREADS = 256;
// Units of a block.
static constexpr u32 UNITS = 4 * THREADS;

KERNEL(ceiling_copy, THREADS, 4, const u32x4* from, u32x4* to, u32 units) {
  u32x4 held[UNITS / THREADS];
  u32 first = block_x() * UNITS + tid();
#pragma unroll
  for (u32 h = 0; h < UNITS / THREADS; h++)
    if (first + h * THREADS < units) held[h] = from[first + h * THREADS];
#pragma unroll
  for (u32 h = 0; h < UNITS / THREADS; h++)
    if (first + h * THREADS < units) to[first + h * THREADS] = held[h];
}

template <class T>
DEV void ceiling_mma(const T* operands, float* out, u32 products) {
  constexpr u32 A = 2, B = 4;
  Fragment<T> a[A], b[B];
#pragma unroll
  for (u32 i = 0; i < A; i++) a[i] = load_a(operands + i * 256, 16);
#pragma unroll
  for (u32 i = 0; i < B; i++) b[i] = load_b(operands + (A + i) * 256, 16);
  Acc acc[A][B];
  for (u32 p = wave(); p < products; p += THREADS / WAVE)
#pragma unroll
    for (u32 i = 0; i < A; i++)
#pragma unroll
      for (u32 j = 0; j < B; j++) mma(acc[i][j], a[i], b[j]);
  float sum = 0;
#pragma unroll
  for (u32 i = 0; i < A; i++)
#pragma unroll
    for (u32 j = 0; j < B; j++)
#pragma unroll
      for (u32 v = 0; v < Acc::N; v++) sum += acc[i][j].v[v];
  out[block_x() * THREADS + tid()] = sum;
}

KERNEL(ceiling_mma_bf16, THREADS, 2, const bf16* operands, float* out, u32 products) {
  ceiling_mma(operands, out, products);
}
KERNEL(ceiling_mma_f16, THREADS, 2, const f16* operands, float* out, u32 products) {
  ceiling_mma(operands, out, products);
}
