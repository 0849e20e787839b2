// Causal paged attention of single rows (decode): out[r] = softmax(scale q k^T) v over the KV
// positions of a work item (Flash-Decoding, Dao et al. 2023).
//
// A long sequence is several items, splits of a fixed size (256 positions suit), so that mixed
// lengths neither pad nor idle the GPU; an item's block takes all query heads of one kv head, at
// most 16, which are the columns of the matrix products. Each wave walks over every WAVES-th KV
// block, from global memory to registers with no way through LDS (kv_cache.h), with a softmax of
// its own; at the end the waves' results are added up in order. A sequence of one item is done
// then, the others' partial results are merged by attention_reduce.
//
// q [rows, heads * DIM] f16, keys and values as in kv_cache.h, items [count][6] u32 (row, first
// position, end position, where its block table starts in `tables`, index of the partial result,
// number of the sequence's items; first = end: nothing to do), out [rows, heads * DIM] T,
// partial_out [partials, heads, DIM] f32 and partial_stats [partials, heads, 2] f32 (largest score
// in powers of two less WEIGHT_BITS of softmax.h, sum of weights relative to it; partial_out is not divided
// by it). Grid (items, kv_heads). A window is in the items' first positions.
// Bytes moved per item and kv head: 4 DIM per position. Bound: memory.
// CPU reference: src/backend/cpu/attention.
#include "attention.h"

static constexpr u32 THREADS = 256, WAVES = THREADS / WAVE;
// Of the block's results, added up at once: tiles of 16 dimensions.
static constexpr u32 TILES = 2;
// A query's part of a wave's result in LDS; padded against bank conflicts.
static constexpr u32 STRIDE = TILES * 16 + 4;

template <class T, u32 DIM>
DEV void attention_decode(const f16* __restrict__ q, const f16* __restrict__ keys, const f16* __restrict__ values,
                          const u32* __restrict__ items, const u32* __restrict__ tables, T* __restrict__ out,
                          float* __restrict__ partial_out, float* __restrict__ partial_stats, u32 heads, u32 kv_heads,
                          float scale) {
  constexpr u32 SIZE = KV_BLOCK * DIM;
  LDS f16 queries[SIZE];
  LDS float tops[WAVES][16], sums[WAVES][16];
  LDS float results[WAVES][16][STRIDE];
  const u32* item = items + 6 * block_x();
  u32 row = item[0], first = item[1], end = item[2], partial = item[4], splits = item[5];
  if (first >= end) return;
  const u32* table = tables + item[3];
  u32 group = heads / kv_heads, first_head = block_y() * group;

  for (u32 n = tid(); n < SIZE / 8; n += THREADS) {
    u32 j = n % 16, d = n / 16 * 8;
    u32x4 words = {0, 0, 0, 0};
    if (j < group) words = *(const u32x4*)(q + ((u64)row * heads + first_head + j) * DIM + d);
    *(u32x2*)(queries + key_index(DIM, j, d)) = words.xy;
    *(u32x2*)(queries + key_index(DIM, j, d + 4)) = words.zw;
  }
  barrier();

  Softmax softmax;
  start(softmax);
  Acc o[DIM / 16];
  u32 last = (end - 1) / KV_BLOCK, block = first / KV_BLOCK + wave();
  Fragment<f16> k[DIM / 16], v[DIM / 16];
  // Where registers suffice, a block's values and the next one's keys are in flight while it is
  // worked on.
  constexpr bool AHEAD = sizeof(Fragment<f16>) * DIM <= 2048;
  u32 id = table[minimum(block, last)], next_id = table[minimum(block + WAVES, last)];
  if constexpr (AHEAD) load_a_tiles<DIM>(keys + ((u64)id * kv_heads + block_y()) * SIZE, k);
  for (; block <= last; block += WAVES) {
    u64 base = ((u64)id * kv_heads + block_y()) * SIZE;
    id = next_id;
    next_id = table[minimum(block + 2 * WAVES, last)];
    if constexpr (AHEAD) {
      load_a_tiles<DIM>(values + base, v);
      keep_order();
    }
    Acc s[1];
#pragma unroll
    for (u32 d = 0; d < DIM; d += 32) {
      Fragment<f16> b[2];
      if constexpr (!AHEAD) load_a_tiles<DIM>(keys + base, k, d / 16);
      if (d + 32 <= DIM) load_b_pair(queries + d * 16, b[0], b[1]);
      else b[0] = load_b(queries + d * 16, 16);
      mma(s[0], k[d / 16], b[0]);
      if (d + 32 <= DIM) mma(s[0], k[d / 16 + 1], b[1]);
    }
    // At the end these are the last block's again.
    if constexpr (AHEAD) load_a_tiles<DIM>(keys + ((u64)id * kv_heads + block_y()) * SIZE, k);
    keep_order();
    if (block * KV_BLOCK < first || block * KV_BLOCK + KV_BLOCK > end) {
#pragma unroll
      for (u32 i = 0; i < Acc::N; i++) {
        u32 at = block * KV_BLOCK + acc_row(i);
        if (at < first || at >= end) s[0].v[i] = HIDDEN;
      }
    }
    float factor[Acc::COLUMNS];
    add_scores(softmax, s, scale * LOG2_E, factor);
    multiply(o, factor);
    Fragment<f16> p = to_b<f16>(s[0]);
#pragma unroll
    for (u32 t = 0; t < DIM / 16; t++) {
      if constexpr (!AHEAD) {
        if (t % 4 == 0) keep_order();
        if (t % 2 == 0) load_a_tiles<DIM>(values + base, v, t);
      }
      mma(o[t], v[t], p);
    }
  }

#pragma unroll
  for (u32 c = 0; c < Acc::COLUMNS; c++) {
    float sum = column_sum(softmax.sum[c]);
    if (lane() / Acc::ROW_LANES == 0) {
      tops[wave()][slot_col(c)] = softmax.top[c];
      sums[wave()][slot_col(c)] = sum;
    }
  }
  barrier();
  float factor[Acc::COLUMNS];
#pragma unroll
  for (u32 c = 0; c < Acc::COLUMNS; c++) {
    float top = LEAST;
    for (u32 w = 0; w < WAVES; w++) top = maximum(top, tops[w][slot_col(c)]);
    factor[c] = fast_exp2(softmax.top[c] - top);
  }
  multiply(o, factor);

#pragma unroll
  for (u32 t = 0; t < DIM / 16; t += TILES) {
    if (t > 0) barrier();
#pragma unroll
    for (u32 n = 0; n < TILES && t + n < DIM / 16; n++)
#pragma unroll
      for (u32 i = 0; i < Acc::N; i++) results[wave()][acc_col(i)][n * 16 + acc_row(i)] = o[t + n].v[i];
    barrier();
    u32 columns = minimum(TILES * 16, DIM - t * 16);
    for (u32 n = tid(); n < group * TILES * 16; n += THREADS) {
      u32 j = n / (TILES * 16), d = n % (TILES * 16);
      if (d >= columns) continue;
      float top = LEAST, sum = 0, result = 0;
      for (u32 w = 0; w < WAVES; w++) top = maximum(top, tops[w][j]);
      for (u32 w = 0; w < WAVES; w++) {
        sum += sums[w][j] * fast_exp2(tops[w][j] - top);
        result += results[w][j][d];
      }
      u64 head = (u64)(splits > 1 ? partial : row) * heads + first_head + j;
      if (splits <= 1) {
        out[head * DIM + t * 16 + d] = from_float<T>(result / sum);
        continue;
      }
      partial_out[head * DIM + t * 16 + d] = result;
      if (t == 0 && d == 0) {
        partial_stats[head * 2] = top;
        partial_stats[head * 2 + 1] = sum;
      }
    }
  }
}

#define ATTENTION_DECODE(T, DIM)                                                                                     \
  KERNEL(attention_decode_##T##_##DIM, THREADS, 2, const f16* q, const f16* keys, const f16* values,                 \
         const u32* items, const u32* tables, T* out, float* partial_out, float* partial_stats, u32 heads,           \
         u32 kv_heads, float scale) {                                                                                \
    attention_decode<T, DIM>(q, keys, values, items, tables, out, partial_out, partial_stats, heads, kv_heads, scale); \
  }
#define ATTENTION_DECODE_OF(DIM) \
  ATTENTION_DECODE(bf16, DIM)    \
  ATTENTION_DECODE(f16, DIM)
ATTENTION_DECODE_OF(16)
ATTENTION_DECODE_OF(32)
ATTENTION_DECODE_OF(64)
ATTENTION_DECODE_OF(80)
ATTENTION_DECODE_OF(96)
ATTENTION_DECODE_OF(128)
ATTENTION_DECODE_OF(256)
