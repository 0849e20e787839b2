// Latent attention (multi-head latent attention of DeepSeek-V2, 2024, with absorbed projections)
// of a tile of queries over some positions of one sequence; mla_decode.hip and mla_prefill.hip
// are its two ways of cutting up the work.
//
// A cache entry is a position's normed latent, then its rotated key: `rank + rope` f16. Queries
// are multiplied with whole entries; what is summed up are their first `rank` values. All heads
// see the same entries, so the queries of a run of rows are one matrix [rows * heads, entry]:
// query n belongs to row n / heads, and a tile of it may hold heads of one row or of several.
//
// A block is 16 GROUPS queries and goes through the cache by blocks of 16 positions. Such a tile of
// latents is read once, a contiguous stream, while the tile before it is worked on, and lies in
// LDS once, for both products:
//
//   scores [queries, 16] = Q tile^T     a wave has one group of 16 queries and every PARTS-th step
//                                       of 16 dimensions, its part of Q in registers
//   weights = 2^(scores - best)         a work-item has one query and one position (per group); best is the
//                                       greatest score less WEIGHT_BITS (softmax.h)
//   sums [queries, RANK] += weights tile        a wave has RANK / WAVES dimensions of all queries
//
// RANK is the size of the latent and ROPE that of the key in LDS and in registers; ranks (multiples of
// 16) and ropes (multiples of 8) below are padded with zeros. EXACT: they are the task's, and the
// compiler knows so.
#pragma once
#include "port.h"
#include "softmax.h"

static constexpr u32 MLA_THREADS = 256;
// Positions of a cache block.
static constexpr u32 BLOCK_TOKENS = 16;

// The compiler moves no load across: neither up, where values would take up registers before they are
// needed, nor down to their use, where each would be waited for.
DEV void hold_loads() { asm volatile("" ::: "memory"); }

// Where a block's queries and entries are.
struct LatentTask {
  // The run's first: [rows * heads, entry].
  const f16* queries;
  const f16* cache;
  const u32* table;
  u32 rows, heads, rank, entry;
  // Index in the run of the tile's first query.
  u32 base;
  // Positions `first ..`, a multiple of 16, of which row 0 sees those before `sees`, row 1 one more.
  u32 first, sees;
  // Of scores, times log2 e.
  float scale;
};

template <u32 RANK, u32 ROPE, bool EXACT, u32 GROUPS>
struct LatentAttention {
  static constexpr u32 WAVES = MLA_THREADS / WAVE;
  static constexpr u32 QUERIES = 16 * GROUPS;
  static constexpr u32 COLUMNS = RANK + ROPE;
  // 16 bytes more than a multiple of what all banks hold at once, so that rows start on other banks.
  static constexpr u32 STRIDE = COLUMNS + 8;
  static constexpr u32 SCORE_STRIDE = BLOCK_TOKENS + 4;
  static constexpr u32 WEIGHT_STRIDE = BLOCK_TOKENS + 8;
  // Waves that share a group's scores, and a wave's steps along the entry.
  static constexpr u32 PARTS = WAVES / GROUPS;
  static constexpr u32 STEPS = COLUMNS / 16;
  static constexpr u32 MY_STEPS = (STEPS + PARTS - 1) / PARTS;
  // Fragments that are loaded before the first is used; they are of 8, 16 or 32 bytes.
  static constexpr u32 AHEAD = 72 / sizeof(Fragment<f16>);
  // Whether a tile is loaded while the one before it is worked on. Where fragments take eight
  // registers, there are none left for that; other blocks' waves hide the loads.
  static constexpr bool PREFETCH = sizeof(Fragment<f16>) < 32;
  // 16-byte loads of a work-item for a tile; 16 work-items load an entry.
  static constexpr u32 LOADS = (COLUMNS / 8 + 15) / 16;
  // Dimensions of the sums that a wave holds, by 16.
  static constexpr u32 SLICE = RANK / WAVES;
  static constexpr u32 DIMS = SLICE / 16;

  struct Memory {
    alignas(16) f16 tile[BLOCK_TOKENS * STRIDE];
    alignas(16) f16 weights[QUERIES * WEIGHT_STRIDE];
    float scores[PARTS * QUERIES * SCORE_STRIDE];
    // Per query: what the sums so far are to be multiplied with.
    float factors[QUERIES];
  };

  Memory& lds;
  const LatentTask task;
  Fragment<f16> q[MY_STEPS];
  Acc sums[GROUPS][DIMS];
  // Of query tid() / 16 of each group: the greatest score less WEIGHT_BITS, and this position's sum of weights.
  float best[GROUPS], total[GROUPS];
  u32x4 held[LOADS];

  METHOD LatentAttention(Memory& memory, const LatentTask& given) : lds(memory), task(given) {}

  METHOD u32 rank() { return EXACT ? RANK : task.rank; }
  METHOD u32 entry() { return EXACT ? COLUMNS : task.entry; }
  METHOD u32 group() { return wave() % GROUPS; }
  METHOD u32 part() { return wave() / GROUPS; }
  // Past the end there is nothing to multiply: Q is zero there, and the first columns do.
  METHOD bool inside(u32 step) { return (step + 1) * PARTS <= STEPS || part() + step * PARTS < STEPS; }
  METHOD u32 column(u32 step) { return inside(step) ? (part() + step * PARTS) * 16 : 0; }

  // 16 work-items load an entry: the columns of one of them.
  METHOD u32 load_column(u32 i) { return (i * 16 + tid() % 16) * 8; }

  // Positions from `first` that any of the tile's queries sees.
  METHOD u32 end() {
    u32 last = minimum(task.base + QUERIES, task.rows * task.heads) - 1;
    return task.sees + last / task.heads;
  }

  // The tile's queries go through LDS, a group at a time, into the registers of the waves that
  // score them; the columns that no entry fills are zero from here on.
  METHOD void load_queries() {
#pragma unroll
    for (u32 g = 0; g < GROUPS; g++) {
      if (g) barrier();
#pragma unroll
      for (u32 i = 0; i < LOADS; i++) {
        u32 n = task.base + g * 16 + tid() / 16, c = load_column(i);
        u32x4 x = {0, 0, 0, 0};
        if (n < task.rows * task.heads && c < entry()) x = *(const u32x4*)(task.queries + (u64)n * entry() + c);
        if (c < COLUMNS) *(u32x4*)(lds.tile + tid() / 16 * STRIDE + c) = x;
      }
      barrier();
      if (group() == g) {
#pragma unroll
        for (u32 step = 0; step < MY_STEPS; step++) {
          q[step] = load_a(lds.tile + column(step), STRIDE);
          if (!inside(step)) q[step] = Fragment<f16>{};
        }
      }
    }
  }

  METHOD void fetch(u32 block) {
    const f16* from = task.cache + (u64)block * BLOCK_TOKENS * entry();
    u32 at = tid() / 16 * entry();
    // Past the entry's end, its end again: a branch would wait for the loads before it.
#pragma unroll
    for (u32 i = 0; i < LOADS; i++) held[i] = *(const u32x4*)(from + at + minimum(load_column(i), entry() - 8));
  }
  // Positions that no query sees may hold anything, NaN included, and become zero.
  METHOD void store(u32 positions) {
    bool seen = tid() / 16 < positions;
#pragma unroll
    for (u32 i = 0; i < LOADS; i++)
      if (load_column(i) < entry())
        *(u32x4*)(lds.tile + tid() / 16 * STRIDE + load_column(i)) = seen ? held[i] : u32x4{0, 0, 0, 0};
  }

  METHOD void score() {
    Acc part_of_scores;
#pragma unroll
    for (u32 first = 0; first < MY_STEPS; first += AHEAD) {
      Fragment<f16> entries[AHEAD];
#pragma unroll
      for (u32 i = 0; i < AHEAD && first + i < MY_STEPS; i++)
        entries[i] = load_b(lds.tile + column(first + i), STRIDE);
      hold_loads();
#pragma unroll
      for (u32 i = 0; i < AHEAD && first + i < MY_STEPS; i++) mma(part_of_scores, q[first + i], entries[i]);
    }
    // One address, the rest are constants beside it.
    float* to = lds.scores + (part() * QUERIES + group() * 16 + acc_row(0)) * SCORE_STRIDE + acc_col(0);
#pragma unroll
    for (u32 i = 0; i < Acc::N; i++)
      to[(acc_row(i) - acc_row(0)) * SCORE_STRIDE + acc_col(i) - acc_col(0)] = part_of_scores.v[i];
  }

  METHOD void weigh(u32 first) {
    u32 token = tid() % 16;
    float scores[GROUPS], factors[GROUPS];
    bool seen[GROUPS];
#pragma unroll
    for (u32 g = 0; g < GROUPS; g++) {
      u32 n = g * 16 + tid() / 16;
      const float* from = lds.scores + n * SCORE_STRIDE + token;
      float score = from[0];
#pragma unroll
      for (u32 p = 1; p < PARTS; p++) score += from[p * QUERIES * SCORE_STRIDE];
      seen[g] = first + token < task.sees + (task.base + n) / task.heads;
      scores[g] = seen[g] ? score * task.scale : -1e30f;
    }
#pragma unroll
    for (u32 g = 0; g < GROUPS; g++) {
      float greatest = maximum(best[g], wave_max(scores[g], 16) - WEIGHT_BITS);
      factors[g] = fast_exp2(best[g] - greatest);
      best[g] = greatest;
    }
#pragma unroll
    for (u32 g = 0; g < GROUPS; g++) {
      float weight = seen[g] ? fast_exp2(scores[g] - best[g]) : 0.0f;
      total[g] = total[g] * factors[g] + weight;
      lds.weights[(g * 16 + tid() / 16) * WEIGHT_STRIDE + token] = from_float<f16>(weight);
    }
    if (token == 0)
#pragma unroll
      for (u32 g = 0; g < GROUPS; g++) lds.factors[g * 16 + tid() / 16] = factors[g];
  }

  METHOD void add() {
#pragma unroll
    for (u32 g = 0; g < GROUPS; g++) {
      const float* from = lds.factors + g * 16 + acc_row(0);
      float factors[Acc::N];
#pragma unroll
      for (u32 i = 0; i < Acc::N; i++) factors[i] = from[acc_row(i) - acc_row(0)];
#pragma unroll
      for (u32 d = 0; d < DIMS; d++)
#pragma unroll
        for (u32 i = 0; i < Acc::N; i++) sums[g][d].v[i] *= factors[i];
    }
    hold_loads();
    Fragment<f16> weights[GROUPS];
#pragma unroll
    for (u32 g = 0; g < GROUPS; g++) weights[g] = load_a(lds.weights + g * 16 * WEIGHT_STRIDE, WEIGHT_STRIDE);
#pragma unroll
    for (u32 first = 0; first < DIMS; first += AHEAD) {
      Fragment<f16> latents[AHEAD];
#pragma unroll
      for (u32 i = 0; i < AHEAD && first + i < DIMS; i++)
        latents[i] = load_b_transposed(lds.tile + wave() * SLICE + (first + i) * 16, STRIDE);
      hold_loads();
#pragma unroll
      for (u32 i = 0; i < AHEAD && first + i < DIMS; i++)
#pragma unroll
        for (u32 g = 0; g < GROUPS; g++) mma(sums[g][first + i], weights[g], latents[i]);
    }
  }

  // Afterwards `best` and `total` are those of the work-item's queries, in every of its 16.
  METHOD void run() {
    load_queries();
#pragma unroll
    for (u32 g = 0; g < GROUPS; g++) best[g] = -1e30f, total[g] = 0;
    u32 last = end(), block = task.table[task.first / BLOCK_TOKENS];
    if (PREFETCH) {
      fetch(block);
      if (task.first + BLOCK_TOKENS < last) block = task.table[task.first / BLOCK_TOKENS + 1];
    }
    for (u32 first = task.first; first < last; first += BLOCK_TOKENS) {
      if (!PREFETCH) fetch(block);
      barrier();
      store(last - first);
      barrier();
      if (PREFETCH && first + BLOCK_TOKENS < last) fetch(block);
      u32 next = first + (PREFETCH ? 2 : 1) * BLOCK_TOKENS;
      if (next < last) block = task.table[next / BLOCK_TOKENS];
      score();
      barrier();
      weigh(first);
      barrier();
      add();
    }
#pragma unroll
    for (u32 g = 0; g < GROUPS; g++) total[g] = wave_sum(total[g], 16);
  }

  // The sums times their query's factor, to rows of `rank` values from the tile's first query on.
  template <class Out>
  METHOD void write(Out* out, const float (&factors)[GROUPS]) {
    barrier();
#pragma unroll
    for (u32 g = 0; g < GROUPS; g++)
      if (tid() % 16 == 0) lds.factors[g * 16 + tid() / 16] = factors[g];
    barrier();
    u32 queries = task.rows * task.heads - task.base;
#pragma unroll
    for (u32 g = 0; g < GROUPS; g++)
#pragma unroll
      for (u32 i = 0; i < Acc::N; i++) {
        u32 n = g * 16 + acc_row(i);
        float factor = lds.factors[n];
#pragma unroll
        for (u32 d = 0; d < DIMS; d++) {
          u32 c = wave() * SLICE + d * 16 + acc_col(i);
          if (n < queries && c < rank()) out[(u64)n * rank() + c] = from_float<Out>(sums[g][d].v[i] * factor);
        }
      }
  }
  METHOD void write_attention(f16* out) {
    float factors[GROUPS];
#pragma unroll
    for (u32 g = 0; g < GROUPS; g++) factors[g] = 1.0f / total[g];
    write(out + (u64)task.base * rank(), factors);
  }
  // The sums as they are, and each query's `best` (in powers of two) and sum of weights.
  METHOD void write_partial(float* out, f32x2* maxima_and_sums) {
    float factors[GROUPS];
#pragma unroll
    for (u32 g = 0; g < GROUPS; g++) {
      factors[g] = 1;
      u32 n = task.base + g * 16 + tid() / 16;
      if (tid() % 16 == 0 && n < task.rows * task.heads) maxima_and_sums[n] = f32x2{best[g], total[g]};
    }
    write(out + (u64)task.base * rank(), factors);
  }
};
