// What the attention kernels share: the running softmax of a wave's queries (Milakov & Gimelshein
// 2018; FlashAttention-2, Dao 2023), a query being a column of the scores S^T = K Q^T.
#pragma once
#include "kv_cache.h"
#include "softmax.h"

// Less than any score, yet finite: it may be subtracted from itself and from a hidden score.
static constexpr float LEAST = -1e30f;
// The score of a position that a query does not see.
static constexpr float HIDDEN = -__builtin_inff();

static constexpr float LOG2_E = 1.4426950408889634f;

// Per column: the largest score so far, in powers of two and less WEIGHT_BITS (softmax.h), and this lane's
// share of the sum of weights relative to it.
struct Softmax {
  float top[Acc::COLUMNS], sum[Acc::COLUMNS];
};

DEV void start(Softmax& softmax) {
  for (u32 c = 0; c < Acc::COLUMNS; c++) softmax.top[c] = LEAST, softmax.sum[c] = 0;
}

// Turns N tiles of scores into weights relative to the new `top`, at most 2^WEIGHT_BITS each; what was summed
// up before is to be multiplied with `factor`. scale > 0 takes scores to powers of two.
template <u32 N>
DEV void add_scores(Softmax& softmax, Acc (&s)[N], float scale, float (&factor)[Acc::COLUMNS]) {
  float top[Acc::COLUMNS];
#pragma unroll
  for (u32 c = 0; c < Acc::COLUMNS; c++) top[c] = HIDDEN;
#pragma unroll
  for (u32 n = 0; n < N; n++)
#pragma unroll
    for (u32 i = 0; i < Acc::N; i++) top[acc_slot(i)] = maximum(top[acc_slot(i)], s[n].v[i]);
#pragma unroll
  for (u32 c = 0; c < Acc::COLUMNS; c++) {
    float best = maximum(softmax.top[c], column_max(top[c]) * scale - WEIGHT_BITS);
    factor[c] = fast_exp2(softmax.top[c] - best);
    softmax.top[c] = best;
    softmax.sum[c] *= factor[c];
  }
#pragma unroll
  for (u32 n = 0; n < N; n++)
#pragma unroll
    for (u32 i = 0; i < Acc::N; i++) {
      s[n].v[i] = fast_exp2(s[n].v[i] * scale - softmax.top[acc_slot(i)]);
      softmax.sum[acc_slot(i)] += s[n].v[i];
    }
}

template <u32 N>
DEV void multiply(Acc (&o)[N], const float (&factor)[Acc::COLUMNS]) {
#pragma unroll
  for (u32 n = 0; n < N; n++)
#pragma unroll
    for (u32 i = 0; i < Acc::N; i++) o[n].v[i] *= factor[acc_slot(i)];
}
