// Latent attention of single rows, absorbed, over the paged latent cache: out = softmax(scale
// query [latent, key]^T) latent. See mla.h for the tile. The context is cut into splits of a fixed
// size, so that a few long rows fill the device and mixed lengths neither pad nor idle it; a work
// list on the device says what there is. All heads of a block share each load of an entry.
//
// query [rows, heads, entry] f16, cache [blocks][16][entry] f16 with entry = rank + rope, out
// [rows, heads, rank] f16. items [..][6] u32: row, first position (a multiple of 16), end position,
// offset of the sequence's blocks in `tables`, partial index, splits of the row. With one split
// the result is written to out; with more, the sums go to partials [index][heads][rank] f32 and
// each head's greatest score less WEIGHT_BITS (softmax.h) and sum of weights relative to it to
// partial_stats [index][heads][2] f32, which mla_reduce.hip merges. Items with end <= first do nothing.
//
// Bytes moved: 2 entry per position and query tile (from memory once, for the other tiles from
// the cache). Bound: memory up to 32 heads, then matrix throughput: 4 (entry + rank) / (2 entry)
// heads FLOP per byte. CPU reference: src/backend/cpu/mla.
#include "mla.h"

static constexpr u32 ITEM = 6;

// Grid: tiles of 16 GROUPS heads, items; tiles that read the same entries run side by side.
template <u32 RANK, u32 ROPE, bool EXACT, u32 GROUPS>
DEV void mla_decode(const f16* __restrict__ query, const f16* __restrict__ cache, const u32* __restrict__ items,
                    const u32* __restrict__ tables, f16* __restrict__ out, float* __restrict__ partials,
                    f32x2* __restrict__ partial_stats, u32 heads, u32 rank, u32 rope, float scale) {
  using Attention = LatentAttention<RANK, ROPE, EXACT, GROUPS>;
  LDS typename Attention::Memory lds;
  const u32* item = items + block_y() * ITEM;
  u32 row = item[0], first = item[1], end = item[2], table = item[3], partial = item[4], splits = item[5];
  u32 base = block_x() * Attention::QUERIES;
  if (end <= first || base >= heads) return;
  u64 start = (u64)row * heads;
  Attention attention(lds, LatentTask{query + start * (rank + rope), cache, tables + table, 1, heads, rank, rank + rope,
                                      base, first, end, scale * 1.4426950408889634f});
  attention.run();
  if (splits == 1) {
    attention.write_attention(out + start * rank);
  } else {
    u64 at = (u64)partial * heads;
    attention.write_partial(partials + at * rank, partial_stats + at);
  }
}

#define MLA_DECODE(shape, queries, rank_most, rope_most, exact)                                                      \
  KERNEL(mla_decode_##shape##_##queries, MLA_THREADS, 2, const f16* query, const f16* cache, const u32* items,       \
         const u32* tables, f16* out, float* partials, float* partial_stats, u32 heads, u32 rank, u32 rope,          \
         float scale) {                                                                                              \
    mla_decode<rank_most, rope_most, exact, queries / 16>(query, cache, items, tables, out, partials,                \
                                                          (f32x2*)partial_stats, heads, rank, rope, scale);          \
  }
// The published shape; others.
MLA_DECODE(512_64, 16, 512, 64, true)
MLA_DECODE(512_64, 32, 512, 64, true)
MLA_DECODE(to_128, 16, 128, 64, false)
MLA_DECODE(to_512, 16, 512, 64, false)
