// Merges the partial results of attention over splits of the KV positions, in the order of the
// splits: out[r] = sum of 2^(top_i - top) partial_i / sum of 2^(top_i - top) sum_i.
//
// items [count][3] u32 (row, index of the first partial result, number of splits; 0: nothing to
// do), partial_out [partials, heads, dim] f32, partial_stats [partials, heads, 2] f32 (see
// attention_decode), out [rows, heads * dim] T; dim a multiple of 8. Grid (items, heads * dim /
// 2048 rounded up). Bytes moved: 4 per partial value. Bound: memory.
// CPU reference: src/backend/cpu/attention/softmax.rs.
#include "attention.h"

static constexpr u32 THREADS = 256;
// Splits in flight at once.
static constexpr u32 HELD = 4;

template <class T>
DEV void attention_reduce(const u32* __restrict__ items, const float* __restrict__ partial_out,
                          const float* __restrict__ partial_stats, T* __restrict__ out, u32 heads, u32 dim) {
  const u32* item = items + 3 * block_x();
  u32 row = item[0], first = item[1], splits = item[2];
  u32 at = (block_y() * THREADS + tid()) * 8, head = at / dim;
  if (splits == 0 || head >= heads) return;
  float top = LEAST;
  for (u32 s = 0; s < splits; s++)
    top = maximum(top, partial_stats[((u64)(first + s) * heads + head) * 2]);
  float sum = 0;
  f32x4 low = {0, 0, 0, 0}, high = {0, 0, 0, 0};
  for (u32 base = 0; base < splits; base += HELD) {
    f32x2 stats[HELD];
    f32x4 x[HELD], y[HELD];
#pragma unroll
    for (u32 h = 0; h < HELD; h++) {
      u64 part = (u64)(first + minimum(base + h, splits - 1)) * heads;
      stats[h] = *(const f32x2*)(partial_stats + (part + head) * 2);
      x[h] = *(const f32x4*)(partial_out + part * dim + at);
      y[h] = *(const f32x4*)(partial_out + part * dim + at + 4);
    }
#pragma unroll
    for (u32 h = 0; h < HELD; h++) {
      float factor = base + h < splits ? fast_exp2(stats[h].x - top) : 0;
      sum += stats[h].y * factor;
      low += x[h] * factor;
      high += y[h] * factor;
    }
  }
  float inverse = 1.0f / sum;
  Eight<T> y;
  for (u32 i = 0; i < 4; i++) {
    y.v[i] = from_float<T>(low[i] * inverse);
    y.v[i + 4] = from_float<T>(high[i] * inverse);
  }
  store8(out + (u64)row * heads * dim + at, y);
}

#define ATTENTION_REDUCE(T)                                                                                 \
  KERNEL(attention_reduce_##T, THREADS, 4, const u32* items, const float* partial_out,                      \
         const float* partial_stats, T* out, u32 heads, u32 dim) {                                          \
    attention_reduce<T>(items, partial_out, partial_stats, out, heads, dim);                                \
  }
ATTENTION_REDUCE(bf16)
ATTENTION_REDUCE(f16)
