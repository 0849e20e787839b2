// Products with few rows of x, x [m, k] times W [n, k] transposed, m <= 16: every weight is read from memory
// once, and that is the time it takes. Two forms, over any reader of weights.h:
//
// m <= 4: 32 lanes take 2 rows of W together and share out k by chunks of 16 bytes, several of which are
// on their way at once. Sums are exact products in f32; scales are applied once per 8 values.
// m <= 16: fragments. A wave takes 32 rows of W, dequantised in registers, with no LDS on the way; the waves
// of a block share out k and add up in the order of waves.
//
// A result's bits do not depend on the other rows of x, nor on how many there are within an entry point's m.
#pragma once
#include "weights.h"

static constexpr u32 GEMV_THREADS = 256;

// Rows of W that 32 lanes take, and chunks of each on their way at once: as many as leave x's chunks in at most
// 8 registers of 16 bytes, if more than one.
template <u32 M, class R>
struct GemvShape {
  static constexpr u32 ROWS = 2, BLOCK_ROWS = GEMV_THREADS / 32 * ROWS;
  static constexpr u32 FIT = 8 / (R::OCTETS * M), AHEAD = FIT < 1 ? 1 : FIT > 4 ? 4 : FIT;
};

// M <= 4 rows of x by BLOCK_ROWS of the n rows of W, from `first` on. x_row(i) is the address of row i < M, and
// always valid; store(i, row, value) gets the result of each row of x and row of W that there is.
template <u32 M, class T, class R, class Rows, class Store>
DEV void gemv_lanes(const R& weights, u32 first, u32 n, u32 k, Rows x_row, Store store) {
  typedef GemvShape<M, R> S;
  u32 lane32 = tid() % 32, begin = first + tid() / 32 * S::ROWS;
  u32 chunks = k / (8 * R::OCTETS);
  const T* x_at[M];
#pragma unroll
  for (u32 i = 0; i < M; i++) x_at[i] = x_row(i);
  f32x2 sums[S::ROWS][M] = {};
  for (u32 c = lane32; c < chunks; c += 32 * S::AHEAD) {
    Eight<T> x_held[S::AHEAD][R::OCTETS][M];
    decltype(weights.template load<R::OCTETS>(0, 0)) held[S::AHEAD][S::ROWS];
#pragma unroll
    for (u32 a = 0; a < S::AHEAD; a++) {
      // Beyond k, x is zero and the weights are any.
      u32 at = R::chunk_k(minimum(c + 32 * a, chunks - 1));
#pragma unroll
      for (u32 o = 0; o < R::OCTETS; o++)
#pragma unroll
        for (u32 i = 0; i < M; i++) x_held[a][o][i] = load8(x_at[i] + at + R::octet_k(o));
#pragma unroll
      for (u32 r = 0; r < S::ROWS; r++) held[a][r] = weights.template load<R::OCTETS>(minimum(begin + r, n - 1), at);
    }
    issue_fence();
#pragma unroll
    for (u32 a = 0; a < S::AHEAD; a++) {
      bool inside = c + 32 * a < chunks;
#pragma unroll
      for (u32 o = 0; o < R::OCTETS; o++) {
        f32x2 values[M][4], total[M];
#pragma unroll
        for (u32 i = 0; i < M; i++) {
          if (a > 0 && !inside) x_held[a][o][i] = Eight<T>{};
#pragma unroll
          for (u32 e = 0; e < 4; e++) values[i][e] = pair(x_held[a][o][i], e);
          total[i] = (values[i][0] + values[i][1]) + (values[i][2] + values[i][3]);
        }
#pragma unroll
        for (u32 r = 0; r < S::ROWS; r++) {
          Octet w = R::octet(held[a][r], o);
#pragma unroll
          for (u32 i = 0; i < M; i++) {
            f32x2 dot = R::SCALED ? f32x2{0, 0} : sums[r][i];
#pragma unroll
            for (u32 e = 0; e < 4; e++) dot += w.code[e] * values[i][e];
            sums[r][i] = R::SCALED ? sums[r][i] + dot * w.scale : dot;
            if (R::SHIFTED) sums[r][i] += total[i] * w.minimum;
          }
        }
        issue_fence();
      }
    }
  }
  // Lane r M + i stores result (i, r).
  float mine = 0;
#pragma unroll
  for (u32 r = 0; r < S::ROWS; r++)
#pragma unroll
    for (u32 i = 0; i < M; i++) {
      float sum = wave_sum(sums[r][i][0] + sums[r][i][1], 32);
      if (lane32 == r * M + i) mine = sum;
    }
  u32 row = begin + lane32 / M;
  if (lane32 < S::ROWS * M && row < n) store(lane32 % M, row, mine);
}

// Rows of W that a block of gemv_fragments takes.
static constexpr u32 GEMV_COLUMNS = 32;

// The same for 16 rows of x by GEMV_COLUMNS rows of W.
template <class T, class R, class Rows, class Store>
DEV void gemv_fragments(const R& weights, u32 begin, u32 n, u32 k, Rows x_row, Store store) {
  constexpr u32 COLUMNS = GEMV_COLUMNS, TILES = COLUMNS / 16, WAVES = GEMV_THREADS / WAVE;
  // Chunks on their way at once. With OCTETS of 4, a lane already has four of each row.
  constexpr u32 AHEAD = OCTETS == 4 ? 1 : R::OCTETS == 1 ? 4 : 2;
  LDS float partial[WAVES][16][COLUMNS];
  u32 chunks = k / (8 * R::OCTETS);
  const T* x_at[OCTETS];
#pragma unroll
  for (u32 p = 0; p < OCTETS; p++) x_at[p] = x_row(octet_row(p));
  Acc acc[TILES];
  // Of a pair, k-octet j comes from chunk c + j.
  for (u32 c = wave() * 4; c < chunks; c += WAVES * 4 * AHEAD) {
    Eight<T> x_held[AHEAD][R::OCTETS][OCTETS];
    decltype(weights.template load<R::OCTETS>(0, 0)) held[AHEAD][TILES][OCTETS];
#pragma unroll
    for (u32 a = 0; a < AHEAD; a++)
#pragma unroll
      for (u32 p = 0; p < OCTETS; p++) {
        u32 chunk = c + a * WAVES * 4 + octet_k(p), at = R::chunk_k(minimum(chunk, chunks - 1));
        // Beyond k, x is zero and the weights are any.
#pragma unroll
        for (u32 o = 0; o < R::OCTETS; o++) {
          x_held[a][o][p] = load8(x_at[p] + at + R::octet_k(o));
          if (chunk >= chunks) x_held[a][o][p] = Eight<T>{};
        }
#pragma unroll
        for (u32 t = 0; t < TILES; t++)
          held[a][t][p] = weights.template load<R::OCTETS>(minimum(begin + t * 16 + octet_row(p), n - 1), at);
      }
    issue_fence();
#pragma unroll
    for (u32 a = 0; a < AHEAD; a++)
#pragma unroll
      for (u32 o = 0; o < R::OCTETS; o++) {
        Pair<T> rows = pair_a(x_held[a][o]);
#pragma unroll
        for (u32 t = 0; t < TILES; t++) {
          Eight<T> octets[OCTETS];
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
    if (row < n) store(i, row, sum);
  }
}

// m rows of x, one after the other, and of out, `stride` values apart.
template <class T>
struct GemvRows {
  const T* x;
  u32 m, k;
  METHOD const T* operator()(u32 i) const { return x + (u64)minimum(i, m - 1) * k; }
};
template <class O>
struct GemvStore {
  O* out;
  const float* bias;
  u32 m, stride;
  METHOD void operator()(u32 i, u32 row, float value) const {
    if (i < m) out[(u64)i * stride + row] = from_float<O>(bias ? value + bias[row] : value);
  }
};

// GEMV_SIZES(T, O, name, WEIGHTS, parameters...): entry points name_mM for m <= M over the reader WEIGHTS, an
// expression of the parameters and k. GEMV_SIZES_4 is for readers with 4 octets in a chunk: there, four rows of x
// would be four times W's bytes through the nearest cache, and fragments, which share x, serve m > 2.
#define GEMV_LANES(T, O, M, name, WEIGHTS, ...)                                                            \
  KERNEL(name, GEMV_THREADS, 3, const T* x, __VA_ARGS__, const float* bias, O* out, u32 m, u32 n, u32 k, \
         u32 stride) {                                                                                     \
    auto w = WEIGHTS;                                                                                      \
    gemv_lanes<M, T>(w, block_x() * GemvShape<M, decltype(w)>::BLOCK_ROWS, n, k, GemvRows<T>{x, m, k},     \
                     GemvStore<O>{out, bias, m, stride});                                                       \
  }
#define GEMV_FRAGMENTS(T, O, name, WEIGHTS, ...)                                                           \
  KERNEL(name, GEMV_THREADS, 4, const T* x, __VA_ARGS__, const float* bias, O* out, u32 m, u32 n, u32 k, \
         u32 stride) {                                                                                     \
    gemv_fragments<T>(WEIGHTS, block_x() * GEMV_COLUMNS, n, k, GemvRows<T>{x, m, k},                       \
                      GemvStore<O>{out, bias, m, stride});                                                      \
  }
#define GEMV_SIZES_4(T, O, name, WEIGHTS, ...)         \
  GEMV_LANES(T, O, 1, name##_m1, WEIGHTS, __VA_ARGS__) \
  GEMV_LANES(T, O, 2, name##_m2, WEIGHTS, __VA_ARGS__) \
  GEMV_FRAGMENTS(T, O, name##_m16, WEIGHTS, __VA_ARGS__)
#define GEMV_SIZES(T, O, name, WEIGHTS, ...)           \
  GEMV_SIZES_4(T, O, name, WEIGHTS, __VA_ARGS__)       \
  GEMV_LANES(T, O, 4, name##_m4, WEIGHTS, __VA_ARGS__)
