// Causal latent attention of several rows of a sequence, absorbed, over the paged latent cache: in
// latent space as decode is. Steps that begin their sequences may go another way, over expanded keys
// and values (mla_expand.hip). See mla.h for the tile; here it holds queries of one row or of several
// of the item's [rows * heads].
//
// query [rows, heads, entry] f16, cache [blocks][16][entry] f16 with entry = rank + rope, out
// [rows, heads, rank] f16. items [..][4] u32: first row, rows, the first row's position, offset of
// the sequence's blocks in `tables`; each row sees the positions up to its own, whose entries
// have been written. Items of no rows do nothing.
//
// FLOPs: 2 (entry + rank) per query and position. Bytes moved: 2 entry per position and tile, mostly
// from the cache. Bound: matrix throughput. CPU reference: src/backend/cpu/mla.
#include "mla.h"

static constexpr u32 ITEM = 4;

// Grid: tiles of 16 GROUPS queries of an item, items.
template <u32 RANK, u32 ROPE, bool EXACT, u32 GROUPS>
DEV void mla_prefill(const f16* __restrict__ query, const f16* __restrict__ cache, const u32* __restrict__ items,
                     const u32* __restrict__ tables, f16* __restrict__ out, u32 heads, u32 rank, u32 rope,
                     float scale) {
  using Attention = LatentAttention<RANK, ROPE, EXACT, GROUPS>;
  LDS typename Attention::Memory lds;
  const u32* item = items + block_y() * ITEM;
  u32 row = item[0], rows = item[1], position = item[2], table = item[3];
  u32 base = block_x() * Attention::QUERIES;
  if (base >= rows * heads) return;
  u64 start = (u64)row * heads;
  Attention attention(lds, LatentTask{query + start * (rank + rope), cache, tables + table, rows, heads, rank,
                                      rank + rope, base, 0, position + 1, scale * 1.4426950408889634f});
  attention.run();
  attention.write_attention(out + start * rank);
}

#define MLA_PREFILL(shape, queries, rank_most, rope_most, exact)                                             \
  KERNEL(mla_prefill_##shape##_##queries, MLA_THREADS, 2, const f16* query, const f16* cache,                \
         const u32* items, const u32* tables, f16* out, u32 heads, u32 rank, u32 rope, float scale) {        \
    mla_prefill<rank_most, rope_most, exact, queries / 16>(query, cache, items, tables, out, heads, rank,    \
                                                           rope, scale);                                     \
  }
// The published shape; others.
MLA_PREFILL(512_64, 32, 512, 64, true)
MLA_PREFILL(to_128, 16, 128, 64, false)
MLA_PREFILL(to_512, 16, 512, 64, false)
