// Products with few rows of x, x [m, k] times W [n, k] transposed, m <= 16: every weight is read from memory
// once, and that is the time it takes. Two forms, over any reader of weights.h:
//
// m <= 4: 32 lanes take ROWS rows of W together and share out k by chunks of 16 bytes, several of which are
// on their way at once. Sums are exact products in f32; scales are applied once per 8 values.
// m <= 16: fragments. A wave takes 32 rows of W, dequantised in registers, with no LDS on the way; the waves
// of a block share out k and add up in the order of waves.
//
// A result's bits depend on the form, not on m nor on the other rows of x.
#pragma once
#include "weights.h"

static constexpr u32 GEMV_THREADS = 256;

// Rows of W that 32 lanes take, and chunks of each on their way at once.
template <u32 M, class R>
struct GemvShape {
  static constexpr u32 ROWS = M == 1 ? 2 : 4;
  static constexpr u32 AHEAD = M == 1 && R::OCTETS == 1 ? 4 : 2;
  static constexpr u32 BLOCK_ROWS = GEMV_THREADS / 32 * ROWS;
};

// m <= M <= 4. Grid: ceil(n / BLOCK_ROWS).
template <u32 M, class T, class O, class R>
DEV void gemv_lanes(const T* __restrict__ x, const R& weights, const float* __restrict__ bias, O* __restrict__ out,
                    u32 m, u32 n, u32 k) {
  typedef GemvShape<M, R> S;
  u32 lane32 = tid() % 32, begin = (block_x() * (GEMV_THREADS / 32) + tid() / 32) * S::ROWS;
  u32 chunks = k / (8 * R::OCTETS);
  float sums[S::ROWS][M] = {};
  for (u32 c = lane32; c < chunks; c += 32 * S::AHEAD) {
    decltype(weights.template load<R::OCTETS>(0, 0)) held[S::AHEAD][S::ROWS];
#pragma unroll
    for (u32 a = 0; a < S::AHEAD; a++)
#pragma unroll
      for (u32 r = 0; r < S::ROWS; r++)
        held[a][r] = weights.template load<R::OCTETS>(minimum(begin + r, n - 1), R::chunk_k(minimum(c + 32 * a, chunks - 1)));
#pragma unroll
    for (u32 a = 0; a < S::AHEAD; a++) {
      if (c + 32 * a >= chunks) break;
      u32 at = R::chunk_k(c + 32 * a);
#pragma unroll
      for (u32 o = 0; o < R::OCTETS; o++) {
        float values[M][8], total[M] = {};
#pragma unroll
        for (u32 i = 0; i < M; i++) {
          Eight<T> octet = load8(x + (u64)minimum(i, m - 1) * k + at + R::octet_k(o));
#pragma unroll
          for (u32 e = 0; e < 8; e++) values[i][e] = to_float(octet.v[e]), total[i] += values[i][e];
        }
#pragma unroll
        for (u32 r = 0; r < S::ROWS; r++) {
          Octet w = R::octet(held[a][r], o);
#pragma unroll
          for (u32 i = 0; i < M; i++) {
            float dot = R::SCALED ? 0 : sums[r][i];
#pragma unroll
            for (u32 e = 0; e < 8; e++) dot += w.code[e] * values[i][e];
            if (R::SCALED) dot = sums[r][i] + dot * w.scale;
            if (R::SHIFTED) dot += total[i] * w.minimum;
            sums[r][i] = dot;
          }
        }
      }
    }
  }
  // Lane r M + i stores result (i, r).
  float mine = 0;
#pragma unroll
  for (u32 r = 0; r < S::ROWS; r++)
#pragma unroll
    for (u32 i = 0; i < M; i++) {
      float sum = wave_sum(sums[r][i], 32);
      if (lane32 == r * M + i) mine = sum;
    }
  u32 row = begin + lane32 / M, i = lane32 % M;
  if (lane32 >= S::ROWS * M || row >= n || i >= m) return;
  out[(u64)i * n + row] = from_float<O>(bias ? mine + bias[row] : mine);
}

// m <= 16. Grid: ceil(n / 32).
template <class T, class O, class R>
DEV void gemv_fragments(const T* __restrict__ x, const R& weights, const float* __restrict__ bias,
                        O* __restrict__ out, u32 m, u32 n, u32 k) {
  constexpr u32 TILES = 2, COLUMNS = 16 * TILES, WAVES = GEMV_THREADS / WAVE;
  // Chunks on their way at once. With OCTETS of 4, a lane already has four of each row.
  constexpr u32 AHEAD = OCTETS == 4 ? 1 : R::OCTETS == 1 ? 4 : 2;
  LDS float partial[WAVES][16][COLUMNS];
  u32 chunks = k / (8 * R::OCTETS), begin = block_x() * COLUMNS;
  Acc acc[TILES];
  // Of a pair, k-octet j comes from chunk c + j.
  for (u32 c = wave() * 4; c < chunks; c += WAVES * 4 * AHEAD) {
    decltype(weights.template load<R::OCTETS>(0, 0)) held[AHEAD][TILES][OCTETS];
#pragma unroll
    for (u32 a = 0; a < AHEAD; a++)
#pragma unroll
      for (u32 t = 0; t < TILES; t++)
#pragma unroll
        for (u32 p = 0; p < OCTETS; p++)
          held[a][t][p] = weights.template load<R::OCTETS>(
              minimum(begin + t * 16 + octet_row(p), n - 1),
              R::chunk_k(minimum(c + a * WAVES * 4 + octet_k(p), chunks - 1)));
#pragma unroll
    for (u32 a = 0; a < AHEAD; a++)
#pragma unroll
      for (u32 o = 0; o < R::OCTETS; o++) {
        // Beyond k, x is zero and the weights are any.
        Eight<T> octets[OCTETS];
#pragma unroll
        for (u32 p = 0; p < OCTETS; p++) {
          u32 chunk = c + a * WAVES * 4 + octet_k(p);
          octets[p] = Eight<T>{};
          if (chunk < chunks)
            octets[p] = load8(x + (u64)minimum(octet_row(p), m - 1) * k + R::chunk_k(chunk) + R::octet_k(o));
        }
        Pair<T> rows = pair_a(octets);
#pragma unroll
        for (u32 t = 0; t < TILES; t++) {
#pragma unroll
          for (u32 p = 0; p < OCTETS; p++) octets[p] = dequantise<T, R>(held[a][t][p], o);
          mma(acc[t], rows, pair_b(octets));
        }
      }
  }
#pragma unroll
  for (u32 t = 0; t < TILES; t++)
#pragma unroll
    for (u32 e = 0; e < Acc::N; e++) partial[wave()][acc_row(e)][t * 16 + acc_col(e)] = acc[t].v[e];
  barrier();
#pragma unroll
  for (u32 h = 0; h < 16 * COLUMNS / GEMV_THREADS; h++) {
    u32 i = (h * GEMV_THREADS + tid()) / COLUMNS, column = tid() % COLUMNS;
    float sum = 0;
#pragma unroll
    for (u32 w = 0; w < WAVES; w++) sum += partial[w][i][column];
    u32 row = begin + column;
    if (i < m && row < n) out[(u64)i * n + row] = from_float<O>(bias ? sum + bias[row] : sum);
  }
}

// GEMV_SIZES(T, O, name, WEIGHTS, parameters...): entry points name_mM for m <= M over the reader WEIGHTS, an
// expression of the parameters and k.
#define GEMV_LANES(T, O, M, name, WEIGHTS, ...)                                                            \
  KERNEL(name, GEMV_THREADS, 4, const T* x, __VA_ARGS__, const float* bias, O* out, u32 m, u32 n, u32 k) { \
    gemv_lanes<M, T>(x, WEIGHTS, bias, out, m, n, k);                                                      \
  }
#define GEMV_FRAGMENTS(T, O, name, WEIGHTS, ...)                                                           \
  KERNEL(name, GEMV_THREADS, 4, const T* x, __VA_ARGS__, const float* bias, O* out, u32 m, u32 n, u32 k) { \
    gemv_fragments<T>(x, WEIGHTS, bias, out, m, n, k);                                                     \
  }
#define GEMV_SIZES(T, O, name, WEIGHTS, ...)                  \
  GEMV_LANES(T, O, 1, name##_m1, WEIGHTS, __VA_ARGS__)        \
  GEMV_LANES(T, O, 2, name##_m2, WEIGHTS, __VA_ARGS__)        \
  GEMV_LANES(T, O, 4, name##_m4, WEIGHTS, __VA_ARGS__)        \
  GEMV_FRAGMENTS(T, O, name##_m16, WEIGHTS, __VA_ARGS__)
