// Chooses each row's experts from its router logits, by softmax or sigmoid scores, with correction
// bias and group-limited choice (DeepSeek-V2 and V3, 2024; Qwen3-MoE; MiniMax-M2).
//
// 32 lanes take a row, so that a row's bits do not depend on the wave size, and hold up to 16 of
// its scores each: expert 32 j + lane. Ranks are compared as integers in the order of the numbers;
// a choice is a maximum over the lanes, of equals the lower expert.
//
// logits [padded, experts] f32; bias [experts] f32 or null; rows [1] u32, the rows that count.
// chosen [padded, top_k] u32: experts of this rank, less `local`, ascending, then ELSEWHERE for
// those of other ranks and for all of a row that does not count; weights [padded, top_k] f32 in the
// same order. experts at most 512 and a multiple of `groups`, groups at most 32 (0: none),
// keep * experts / groups >= top_k, top_k at most 16 and at most experts.
// Grid: padded / 2 rounded up. Bytes moved per row: 4 experts + 8 top_k. Bound: latency.
// CPU reference: src/backend/cpu/moe/route.rs, which ranks NaN above all numbers as well.
#include "order.h"

static constexpr u32 THREADS = 64;
static constexpr u32 LANES = 32;
static constexpr u32 EXPERTS_MAX = 512;
static constexpr u32 HELD = EXPERTS_MAX / LANES;
static constexpr u32 ELSEWHERE = ~0u;

// `flags`
static constexpr u32 SIGMOID = 1;    // else softmax
static constexpr u32 BEST_TWO = 2;   // groups by the sum of their two best, else by their best
static constexpr u32 NORMALISE = 4;  // weights are divided by their sum

// The rank of an expert that cannot be chosen (any more), below the order of any float.
static constexpr u32 OUT = 0;

// Whether a ranks above b.
DEV bool above(float a, float b) { return order(a) > order(b); }

// Of this lane's row.
DEV float row_max(float v) { return wave_max(v, LANES); }
DEV float row_sum(float v) { return wave_sum(v, LANES); }
template <class V>
DEV V from_lane(V v, u32 of_row) { return shuffle(v, lane() / LANES * LANES + of_row); }

DEV void score_all(float (&scores)[HELD], u32 experts, u32 l, bool with_sigmoid) {
  float largest = scores[0];
#pragma unroll
  for (u32 j = 1; j < HELD; j++)
    if (j * LANES < experts) largest = maximum(largest, scores[j]);
  largest = row_max(largest);
  float sum = 0;
#pragma unroll
  for (u32 j = 0; j < HELD; j++) {
    if (j * LANES >= experts) break;
    float e = fast_exp(with_sigmoid ? -scores[j] : scores[j] - largest);
    scores[j] = with_sigmoid ? 1.0f / (1.0f + e) : e;
    if (j * LANES + l < experts) sum += e;
  }
  if (with_sigmoid) return;
  sum = row_sum(sum);
#pragma unroll
  for (u32 j = 0; j < HELD; j++) scores[j] /= sum;
}

KERNEL(moe_route, THREADS, 4, const float* logits, const float* bias, const u32* rows, u32* chosen, float* weights,
       u32 padded, u32 experts, u32 top_k, u32 groups, u32 keep, u32 first_local, u32 end_local, u32 flags,
       float scale) {
  LDS float ranked[THREADS / LANES][EXPERTS_MAX];
  u32 in_block = tid() / LANES, l = tid() % LANES;
  u32 row = block_x() * (THREADS / LANES) + in_block;
  // Every lane goes along, as shuffles and barriers want them all.
  bool counts = row < minimum(*rows, padded);
  float scores[HELD];
#pragma unroll
  for (u32 j = 0; j < HELD; j++) {
    u32 e = j * LANES + l;
    scores[j] = e >= experts ? -__builtin_inff() : counts ? logits[(u64)row * experts + e] : 0.0f;
  }
  score_all(scores, experts, l, flags & SIGMOID);

  u32 ranks[HELD];
#pragma unroll
  for (u32 j = 0; j < HELD; j++) {
    u32 e = j * LANES + l;
    ranks[j] = OUT;
    if (e >= experts) continue;
    float rank = bias ? scores[j] + bias[e] : scores[j];
    ranks[j] = order(rank);
    if (groups) ranked[in_block][e] = rank;
  }

  if (groups) {
    // Lane g ranks group g.
    barrier();
    u32 size = experts / groups;
    float best = -__builtin_inff(), second = best;
    for (u32 i = 0; l < groups && i < size; i++) {
      float rank = ranked[in_block][l * size + i];
      if (above(rank, best))
        second = best, best = rank;
      else if (above(rank, second))
        second = rank;
    }
    u32 mine = order(flags & BEST_TWO ? best + second : best), place = 0;
    for (u32 g = 0; g < groups; g++) {
      u32 other = from_lane(mine, g);
      place += g < l ? other >= mine : other > mine;
    }
    u32 kept = place < keep;
#pragma unroll
    for (u32 j = 0; j < HELD; j++) {
      if (j * LANES >= experts) break;
      u32 e = j * LANES + l;
      if (!from_lane(kept, minimum(e / size, groups - 1))) ranks[j] = OUT;
    }
  }

  // Lane k ends up with the k-th best.
  u32 expert = ELSEWHERE;
  float weight = 0, sum = 0;
  for (u32 k = 0; k < top_k; k++) {
    u32 best = OUT, best_expert = ~0u;
    float score = 0;
#pragma unroll
    for (u32 j = 0; j < HELD; j++) {
      if (j * LANES >= experts) break;
      if (ranks[j] > best) best = ranks[j], best_expert = j * LANES + l, score = scores[j];
    }
    u32 winner = best_expert;
    for (u32 m = LANES / 2; m; m /= 2) {
      u32 other = shuffle_xor(best, m), other_winner = shuffle_xor(winner, m);
      if (other > best || (other == best && other_winner < winner)) best = other, winner = other_winner;
    }
    score = from_lane(score, winner % LANES);
#pragma unroll
    for (u32 j = 0; j < HELD; j++)
      if (j * LANES + l == winner) ranks[j] = OUT;
    sum += score;
    if (l == k) expert = winner, weight = score;
  }
  // The guard against a sum of 0 changes no sum that is not as small.
  weight = weight / (flags & NORMALISE ? sum + 1e-20f : 1.0f) * scale;

  bool local = counts && expert >= first_local && expert < end_local;
  expert = local ? expert - first_local : ELSEWHERE;
  u32 place = 0;
  for (u32 k = 0; k < top_k; k++) {
    u32 other = from_lane(expert, k);
    place += k < l ? other <= expert : other < expert;
  }
  if (row < padded && l < top_k) {
    chosen[(u64)row * top_k + place] = expert;
    weights[(u64)row * top_k + place] = weight;
  }
}
