// Sorts a step's pairs of row and expert by expert, then by row, for the grouped gemm: the row of
// each pair, the pair of each choice, where each expert's pairs start, and tiles of at most
// tile_rows pairs of one expert.
//
// One block per expert. Each counts all pairs by expert in LDS, so that it knows where its own
// pairs and tiles go without having to wait for any other block; then it reads the pairs once more
// and writes those of its expert in order. Waves take consecutive parts of the pairs, lanes four
// consecutive pairs at a time.
//
// chosen [any, top_k] u32: experts or ELSEWHERE, as moe_route writes them, 16 bytes aligned;
// rows [1] u32, the rows that count. pair_rows [pairs] u32; pair_of [any, top_k] u32, nothing is
// written where chosen is ELSEWHERE; first_pairs [experts + 1] u32; tiles [tiles_max] of u32x4:
// expert, first pair, number of pairs, 0; the rest of the list has 0 pairs.
// tiles_max >= pairs / tile_rows + min(experts, pairs); experts at most 512.
// Grid: experts. Bytes moved: 8 pairs per block, from L2. Bound: latency for a decode, L2 for a
// prefill. CPU reference: `group` in src/backend/cpu/moe/route.rs.
#include "port.h"

static constexpr u32 THREADS = 256;
static constexpr u32 WAVES = THREADS / WAVE;
static constexpr u32 EXPERTS_MAX = 512;
static constexpr u32 ELSEWHERE = ~0u;
// Consecutive pairs of a lane.
static constexpr u32 LANE = 4;

DEV u32x4 load_pairs(const u32* __restrict__ chosen, u32 at, u32 pairs) {
  if (at + LANE <= pairs) return *(const u32x4*)(chosen + at);
  u32x4 some = {ELSEWHERE, ELSEWHERE, ELSEWHERE, ELSEWHERE};
  for (u32 i = 0; i < LANE; i++)
    if (at + i < pairs) some[i] = chosen[at + i];
  return some;
}

// Over the block; the same in all work-items.
DEV u32 block_total(u32 v, u32* scratch) {
  v = wave_sum(v);
  barrier();
  if (lane() == 0) scratch[wave()] = v;
  barrier();
  u32 sum = 0;
  for (u32 w = 0; w < WAVES; w++) sum += scratch[w];
  return sum;
}

KERNEL(moe_sort, THREADS, 4, const u32* chosen, const u32* rows, u32* pair_rows, u32* pair_of, u32* first_pairs,
       u32x4* tiles, u32 top_k, u32 experts, u32 tile_rows, u32 tiles_max) {
  LDS u32 counts[EXPERTS_MAX];
  LDS u32 of_waves[WAVES];
  LDS u32 scratch[WAVES];
  u32 expert = block_x(), pairs = *rows * top_k;
  u32 part = (pairs + WAVES * LANE - 1) / (WAVES * LANE) * LANE;
  u32 begin = minimum(wave() * part, pairs), end = minimum(begin + part, pairs);

  for (u32 e = tid(); e < experts; e += THREADS) counts[e] = 0;
  barrier();
  u32 own = 0;
  for (u32 at = begin + lane() * LANE; at < end; at += WAVE * LANE) {
    u32x4 some = load_pairs(chosen, at, end);
    for (u32 i = 0; i < LANE; i++) {
      if (some[i] < experts) lds_add(&counts[some[i]], 1u);
      own += some[i] == expert;
    }
  }
  own = wave_sum(own);
  if (lane() == 0) of_waves[wave()] = own;
  barrier();

  u32 before = 0, tiles_before = 0;
  for (u32 e = tid(); e < expert; e += THREADS) {
    before += counts[e];
    tiles_before += (counts[e] + tile_rows - 1) / tile_rows;
  }
  before = block_total(before, scratch);
  tiles_before = block_total(tiles_before, scratch);
  u32 count = counts[expert], tiles_after = tiles_before + (count + tile_rows - 1) / tile_rows;
  if (tid() == 0) first_pairs[expert] = before;
  for (u32 t = tiles_before + tid(); t < tiles_after; t += THREADS) {
    u32 done = (t - tiles_before) * tile_rows;
    tiles[t] = u32x4{expert, before + done, minimum(count - done, tile_rows), 0};
  }
  if (expert == experts - 1) {
    if (tid() == 0) first_pairs[experts] = before + count;
    for (u32 t = tiles_after + tid(); t < tiles_max; t += THREADS) tiles[t] = u32x4{0, 0, 0, 0};
  }

  u32 next = before;
  for (u32 w = 0; w < wave(); w++) next += of_waves[w];
  // All lanes of the wave go along with its first.
  for (u32 base = begin; base < end; base += WAVE * LANE) {
    u32 at = base + lane() * LANE;
    u32x4 some = load_pairs(chosen, minimum(at, end), end);
    u32 found = 0;
    for (u32 i = 0; i < LANE; i++) found += some[i] == expert;
    u32 upto = found;
    for (u32 m = 1; m < WAVE; m *= 2) {
      u32 other = shuffle(upto, lane() - m);
      if (lane() >= m) upto += other;
    }
    u32 pair = next + upto - found;
    for (u32 i = 0; i < LANE; i++) {
      if (some[i] != expert) continue;
      pair_rows[pair] = (at + i) / top_k;
      pair_of[at + i] = pair++;
    }
    next += shuffle(upto, WAVE - 1);
  }
}
