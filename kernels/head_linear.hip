// One small matrix per head, latent attention's absorbed projections: of each head's `x_stride`
// columns of x the first k go through its W [n, k] to the first n of its `out_stride` columns of out,
// the others stay. Batched gemm in tiles, LDS in between, the next step's loads in flight.
//
// x [rows, heads * x_stride] X, w [heads, n, k] W, out [rows, heads * out_stride] Out; k, the strides
// multiples of 8. The chain's types, for a model in T:
//   K^T: q [.., nope of nope + rope] T -> query [.., rank of rank + rope] f16, products in T
//   V:   attention's result [.., rank] f16 -> values [.., v_dim] T, products in f16
// The query is f16 because the cache is and products want one type; it is clamped to f16's range:
// scores are its products with normed latents, so values near the limit belong to scores that would
// overwhelm softmax anyway, and an infinity would make them NaN. Attention's result is an average
// of cached latents, so f16 holds it, with three bits more than bf16. For products in f16 weights are
// multiplied with 2^8 on the way to LDS, and results divided by it: MI200 takes subnormal operands for
// zero, and many weights are subnormal in f16. So bf16's weights are exact from 2.4e-7 to 255, and clamped
// beyond.
//
// Bytes moved: 2 heads (rows (k + n) + n k). Bound: memory (the weights) for few rows: tiles of 16 x
// 32 with the waves side by side along k; else matrix throughput: tiles of 64 x 128. CPU reference:
// src/backend/cpu/heads.rs.
#include "port.h"

static constexpr u32 THREADS = 256;
static constexpr u32 WAVES = THREADS / WAVE;

template <class T>
DEV T rounded(float x) {
  if constexpr (same<T, f16>) x = maximum(minimum(x, 65504.0f), -65504.0f);
  return from_float<T>(x);
}

// Work-items' 8-value pieces of a [ROWS, DEPTH] tile, from memory into LDS, padded with zeros.
template <class T, u32 ROWS, u32 DEPTH>
struct Piece {
  static constexpr u32 N = ROWS * DEPTH / 8 / THREADS;
  static_assert(N * 8 * THREADS == ROWS * DEPTH, "whole pieces");
  Eight<T> held[N];

  METHOD void fetch(const T* from, u64 stride, u32 rows, u32 depth) {
#pragma unroll
    for (u32 i = 0; i < N; i++) {
      u32 at = i * THREADS + tid(), row = at / (DEPTH / 8), c = at % (DEPTH / 8) * 8;
      held[i] = __builtin_bit_cast(Eight<T>, u32x4{0, 0, 0, 0});
      if (row < rows && c < depth) held[i] = load8(from + row * stride + c);
    }
  }
  // Times `scale`, a power of two.
  template <class X, u32 scale = 1>
  METHOD void store(X* to, u32 stride) {
#pragma unroll
    for (u32 i = 0; i < N; i++) {
      u32 at = i * THREADS + tid(), row = at / (DEPTH / 8), c = at % (DEPTH / 8) * 8;
      Eight<X> x;
      if constexpr (same<T, X> && scale == 1) {
        x = held[i];
      } else {
#pragma unroll
        for (u32 j = 0; j < 8; j++) x.v[j] = rounded<X>(to_float(held[i].v[j]) * scale);
      }
      store8(to + row * stride + c, x);
    }
  }
};

// M x N: the block's tile; DEPTH: of k, at a time; ACROSS x ALONG waves share the tile's rows and
// columns, the rest of the waves its depth.
template <u32 M_, u32 N_, u32 DEPTH_, u32 ACROSS_, u32 ALONG_>
struct Shape {
  static constexpr u32 M = M_, N = N_, DEPTH = DEPTH_, ACROSS = ACROSS_, ALONG = ALONG_;
  static constexpr u32 PARTS = WAVES / (ACROSS * ALONG);
};
using Few = Shape<16, 32, 256, 1, 1>;
using Many = Shape<64, 128, 64, 2, WAVES / 2>;

// Grid: tiles of n, heads, tiles of rows.
template <class X, class W, class Out, class S>
DEV void head_linear(const X* __restrict__ x, const W* __restrict__ w, Out* __restrict__ out, u32 rows, u32 heads,
                     u32 x_stride, u32 out_stride, u32 n, u32 k) {
  constexpr u32 STRIDE = S::DEPTH + 8, SUM_STRIDE = S::N + 4;
  constexpr u32 OPERANDS = (S::M + S::N) * STRIDE * sizeof(X);
  constexpr u32 SUMS = S::PARTS > 1 ? S::PARTS * S::M * SUM_STRIDE * sizeof(float) : 0;
  LDS u8 lds[OPERANDS > SUMS ? OPERANDS : SUMS];
  X *x_tile = (X*)lds, *w_tile = x_tile + S::M * STRIDE;
  constexpr u32 MS = S::M / S::ACROSS / 16, NS = S::N / S::ALONG / 16;
  constexpr u32 W_SCALE = same<X, f16> ? 256 : 1;

  u32 head = block_y(), column = block_x() * S::N, row = block_z() * S::M;
  u64 x_row = (u64)heads * x_stride, out_row = (u64)heads * out_stride;
  x += row * x_row + head * x_stride;
  w += ((u64)head * n + column) * k;
  out += row * out_row + head * out_stride + column;
  u32 m_left = rows - row, n_left = n - column;

  u32 across = wave() % S::ACROSS, along = wave() / S::ACROSS % S::ALONG, part = wave() / (S::ACROSS * S::ALONG);
  const X* my_x = x_tile + across * MS * 16 * STRIDE + part * 16;
  const X* my_w = w_tile + along * NS * 16 * STRIDE + part * 16;
  Acc acc[MS][NS];
  Piece<X, S::M, S::DEPTH> x_piece;
  Piece<W, S::N, S::DEPTH> w_piece;
  x_piece.fetch(x, x_row, m_left, k);
  w_piece.fetch(w, k, n_left, k);
  for (u32 at = 0; at < k; at += S::DEPTH) {
    barrier();
    x_piece.store(x_tile, STRIDE);
    w_piece.template store<X, W_SCALE>(w_tile, STRIDE);
    barrier();
    u32 next = at + S::DEPTH;
    if (next < k) {
      x_piece.fetch(x + next, x_row, m_left, k - next);
      w_piece.fetch(w + next, k, n_left, k - next);
    }
#pragma unroll
    for (u32 step = 0; step < S::DEPTH; step += 16 * S::PARTS) {
      Fragment<X> a[MS], b[NS];
#pragma unroll
      for (u32 i = 0; i < MS; i++) a[i] = load_a(my_x + i * 16 * STRIDE + step, STRIDE);
#pragma unroll
      for (u32 j = 0; j < NS; j++) b[j] = load_b(my_w + j * 16 * STRIDE + step, STRIDE);
#pragma unroll
      for (u32 i = 0; i < MS; i++)
#pragma unroll
        for (u32 j = 0; j < NS; j++) mma(acc[i][j], a[i], b[j]);
    }
  }

  if constexpr (S::PARTS > 1) barrier();
  float* sums = (float*)lds;
#pragma unroll
  for (u32 i = 0; i < MS; i++)
#pragma unroll
    for (u32 j = 0; j < NS; j++)
#pragma unroll
      for (u32 v = 0; v < Acc::N; v++) {
        u32 r = (across * MS + i) * 16 + acc_row(v), c = (along * NS + j) * 16 + acc_col(v);
        if constexpr (S::PARTS > 1) {
          sums[(part * S::M + r) * SUM_STRIDE + c] = acc[i][j].v[v];
        } else {
          if (r < m_left && c < n_left) out[r * out_row + c] = rounded<Out>(acc[i][j].v[v] * (1.0f / W_SCALE));
        }
      }
  if constexpr (S::PARTS > 1) {
    barrier();
#pragma unroll
    for (u32 at = tid(); at < S::M * S::N; at += THREADS) {
      u32 r = at / S::N, c = at % S::N;
      float sum = 0;
#pragma unroll
      for (u32 p = 0; p < S::PARTS; p++) sum += sums[(p * S::M + r) * SUM_STRIDE + c];
      if (r < m_left && c < n_left) out[r * out_row + c] = rounded<Out>(sum * (1.0f / W_SCALE));
    }
  }
}

#define HEAD_LINEAR_SHAPE(X, W, Out, name, shape)                                                                 \
  KERNEL(head_linear_##X##_##W##_##Out##_##name, THREADS, 2, const X* x, const W* w, Out* out, u32 rows, u32 heads, \
         u32 x_stride, u32 out_stride, u32 n, u32 k) {                                                            \
    head_linear<X, W, Out, shape>(x, w, out, rows, heads, x_stride, out_stride, n, k);                            \
  }
#define HEAD_LINEAR(X, W, Out)             \
  HEAD_LINEAR_SHAPE(X, W, Out, few, Few)   \
  HEAD_LINEAR_SHAPE(X, W, Out, many, Many)
HEAD_LINEAR(bf16, bf16, f16)
HEAD_LINEAR(f16, bf16, bf16)
HEAD_LINEAR(f16, f16, f16)
