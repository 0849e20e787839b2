// Merges the partial results of mla_decode.hip: of a row's splits with greatest scores m_i, sums of
// weights l_i and sums of latents a_i, out = sum 2^(m_i - m) a_i / sum 2^(m_i - m) l_i with m the
// greatest of all. The splits of a row are added in their order.
//
// Same work list as mla_decode; the item of a row's first split (first position 0) stands for the
// row, whose splits' partial results lie one after the other. Others return at once.
// partials [index][heads][rank] f32, partial_stats [index][heads][2] f32, out [rows, heads, rank] f16.
//
// Bytes moved: 4 per partial value, 2 per value of out. Bound: memory (mostly the cache, just
// written). CPU reference: src/backend/cpu/attention (Total).
#include "port.h"

static constexpr u32 THREADS = 256;
static constexpr u32 ITEM = 6;

// Grid: tiles of 4 THREADS values of a row, items.
KERNEL(mla_reduce, THREADS, 4, const u32* __restrict__ items, const float* __restrict__ partials,
       const f32x2* __restrict__ partial_stats, f16* __restrict__ out, u32 heads, u32 rank) {
  const u32* item = items + block_y() * ITEM;
  u32 row = item[0], first = item[1], end = item[2], partial = item[4], splits = item[5];
  u32 at = (block_x() * THREADS + tid()) * 4, columns = heads * rank;
  if (first != 0 || end == 0 || splits < 2 || at >= columns) return;
  const f32x2* stats = partial_stats + (u64)partial * heads + at / rank;
  partials += (u64)partial * columns + at;

  float best = stats[0][0];
#pragma unroll 4
  for (u32 s = 1; s < splits; s++) best = maximum(best, stats[(u64)s * heads][0]);
  float total = 0;
  f32x4 sum = {0, 0, 0, 0};
#pragma unroll 4
  for (u32 s = 0; s < splits; s++) {
    f32x2 stat = stats[(u64)s * heads];
    float weight = fast_exp2(stat[0] - best);
    total += weight * stat[1];
    sum += weight * *(const f32x4*)(partials + (u64)s * columns);
  }
  struct alignas(8) Four {
    f16 v[4];
  } y;
  for (u32 i = 0; i < 4; i++) y.v[i] = from_float<f16>(sum[i] / total);
  *(u32x2*)(out + (u64)row * columns + at) = __builtin_bit_cast(u32x2, y);
}
