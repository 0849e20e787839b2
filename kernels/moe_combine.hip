// out[r] = shared[r] + the sum over row r's pairs of weight * y[pair], in f32 and in the order of
// experts, rounded to T once.
//
// y [pairs, columns] T; chosen, weights, pair_of [rows, top_k] as moe_route and moe_sort write them;
// shared [rows, columns] T or null; out [rows, columns] T, may be shared; columns a multiple of 8.
// Grid: (rows, columns / VALUES rounded up). Bytes moved per value of out: 2 (pairs of the row + 2).
// Bound: memory. CPU reference: `combine` in src/backend/cpu/moe/mod.rs.
#include "port.h"

static constexpr u32 THREADS = 256;
// Columns of a block: 8 a work-item.
static constexpr u32 VALUES = 8 * THREADS;
static constexpr u32 ELSEWHERE = ~0u;
// Pairs on their way at once.
static constexpr u32 AHEAD = 4;

template <class T>
DEV void moe_combine(const T* __restrict__ y, const u32* __restrict__ chosen, const float* __restrict__ weights,
                     const u32* __restrict__ pair_of, const T* shared, T* out, u32 columns, u32 top_k) {
  u32 column = block_y() * VALUES + tid() * 8;
  if (column >= columns) return;
  float sums[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  u64 at = (u64)block_x() * columns + column;
  if (shared) {
    Eight<T> held = load8(shared + at);
    for (u32 i = 0; i < 8; i++) sums[i] = to_float(held.v[i]);
  }
  u32 first = block_x() * top_k;
  for (u32 j = 0; j < top_k; j += AHEAD) {
    Eight<T> held[AHEAD];
    bool here[AHEAD];
#pragma unroll
    for (u32 a = 0; a < AHEAD; a++) {
      here[a] = j + a < top_k && chosen[first + j + a] != ELSEWHERE;
      if (here[a]) held[a] = load8(y + (u64)pair_of[first + j + a] * columns + column);
    }
#pragma unroll
    for (u32 a = 0; a < AHEAD; a++) {
      // Others of the row's follow those of this rank.
      if (!here[a]) break;
      float weight = weights[first + j + a];
      for (u32 i = 0; i < 8; i++) sums[i] += weight * to_float(held[a].v[i]);
    }
    if (!here[AHEAD - 1]) break;
  }
  Eight<T> sum;
  for (u32 i = 0; i < 8; i++) sum.v[i] = from_float<T>(sums[i]);
  store8(out + at, sum);
}

#define MOE_COMBINE(T)                                                                                         \
  KERNEL(moe_combine_##T, THREADS, 4, const T* y, const u32* chosen, const float* weights, const u32* pair_of, \
         const T* shared, T* out, u32 columns, u32 top_k) {                                                    \
    moe_combine<T>(y, chosen, weights, pair_of, shared, out, columns, top_k);                                  \
  }
MOE_COMBINE(bf16)
MOE_COMBINE(f16)
