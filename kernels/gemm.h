// The tile of a matrix product, x [m, k] times W [n, k] transposed: a block computes ROWS x COLUMNS results,
// streaming both operands through LDS, 32 k-values at a time, in two buffers: while the fragments of one
// step are multiplied, the next step's values are on their way to registers; weights are dequantised on
// their way to LDS. Rows of x come from a function, so that a grouped product (mixture of experts) gathers.
//
// Every result is one chain of products in the order of k: shapes of tiles and other rows do not change its bits.
#pragma once
#include "weights.h"

static constexpr u32 GEMM_THREADS = 256;
static constexpr u32 GEMM_K = 32;

// ROWS_ x COLUMNS_ by 256 work-items, with WAVES_N_ waves along the columns.
template <u32 ROWS_, u32 COLUMNS_, u32 WAVES_N_>
struct Tile {
  static constexpr u32 ROWS = ROWS_, COLUMNS = COLUMNS_;
  static constexpr u32 WAVES_N = WAVES_N_, WAVES_M = GEMM_THREADS / WAVE / WAVES_N_;
  // Results of a wave, in pieces of 16x16.
  static constexpr u32 M = ROWS / WAVES_M / 16, N = COLUMNS / WAVES_N / 16;
  // Octets that a work-item stages.
  static constexpr u32 X = (ROWS * 4 + GEMM_THREADS - 1) / GEMM_THREADS;
  static constexpr u32 W = (COLUMNS * 4 + GEMM_THREADS - 1) / GEMM_THREADS;

  Acc acc[M][N];

  // f(row, column, value) for every result, row and column within the tile.
  template <class F>
  METHOD void each(F f) const {
    u32 row = wave() / WAVES_N * (M * 16), column = wave() % WAVES_N * (N * 16);
#pragma unroll
    for (u32 i = 0; i < M; i++)
#pragma unroll
      for (u32 j = 0; j < N; j++)
#pragma unroll
        for (u32 e = 0; e < Acc::N; e++) f(row + i * 16 + acc_row(e), column + j * 16 + acc_col(e), acc[i][j].v[e]);
  }
};
typedef Tile<128, 128, 2> Tile128x128;
typedef Tile<64, 64, 2> Tile64x64;
typedef Tile<32, 128, 4> Tile32x128;

// Where octet j of a row's four stands: shifted from row to row, so that 8 lanes reading one octet of 8
// rows, or writing all octets of 2, touch every bank.
DEV u32 staged_at(u32 row, u32 j) { return row * 4 + (j ^ (row / 2 % 4)); }

// tile.acc += x W^T for columns n_begin .. + COLUMNS of the n rows of W. `x_row(i)` is the address of row i
// of the tile and always valid; likewise rows of W beyond n are replaced by the last: such results mean
// nothing. A block may call it again: LDS is free when it returns.
template <class S, class T, class R, class Rows>
DEV void gemm_tile(S& tile, const R& weights, u32 n, u32 k, u32 n_begin, Rows x_row) {
  LDS Eight<T> x_tile[2][S::ROWS * 4], w_tile[2][S::COLUMNS * 4];
  u32 j = tid() % 4, first = tid() / 4;
  constexpr u32 STEP = GEMM_THREADS / 4;

  const T* x_at[S::X];
  u32 w_row[S::W];
#pragma unroll
  for (u32 i = 0; i < S::X; i++) x_at[i] = x_row(minimum(first + i * STEP, S::ROWS - 1));
#pragma unroll
  for (u32 i = 0; i < S::W; i++) w_row[i] = minimum(n_begin + first + i * STEP, n - 1);

  Eight<T> x_held[S::X];
  decltype(weights.template load<1>(0, 0)) w_held[S::W];
  // Beyond k, x is zero and the weights are any.
  auto fetch = [&](u32 step) {
    u32 at = step * GEMM_K + j * 8;
    bool inside = at < k;
    u32 from = inside ? at : 0;
#pragma unroll
    for (u32 i = 0; i < S::X; i++) {
      x_held[i] = load8(x_at[i] + from);
      if (!inside) x_held[i] = Eight<T>{};
    }
#pragma unroll
    for (u32 i = 0; i < S::W; i++) w_held[i] = weights.template load<1>(w_row[i], from);
  };
  auto stage = [&](u32 buffer) {
#pragma unroll
    for (u32 i = 0; i < S::X; i++)
      if (S::ROWS % STEP == 0 || first + i * STEP < S::ROWS) x_tile[buffer][staged_at(first + i * STEP, j)] = x_held[i];
#pragma unroll
    for (u32 i = 0; i < S::W; i++)
      if (S::COLUMNS % STEP == 0 || first + i * STEP < S::COLUMNS)
        w_tile[buffer][staged_at(first + i * STEP, j)] = dequantise<T, R>(w_held[i], 0);
  };

  u32 row = wave() / S::WAVES_N * (S::M * 16), column = wave() % S::WAVES_N * (S::N * 16);
  u32 steps = (k + GEMM_K - 1) / GEMM_K;
  fetch(0);
  stage(0);
  barrier();
  for (u32 step = 0; step < steps; step++) {
    u32 buffer = step % 2;
    if (step + 1 < steps) fetch(step + 1);
    Pair<T> a[S::M];
#pragma unroll
    for (u32 i = 0; i < S::M; i++) {
      Eight<T> octets[OCTETS];
#pragma unroll
      for (u32 o = 0; o < OCTETS; o++) octets[o] = x_tile[buffer][staged_at(row + i * 16 + octet_row(o), octet_k(o))];
      a[i] = pair_a(octets);
    }
#pragma unroll
    for (u32 i = 0; i < S::N; i++) {
      Eight<T> octets[OCTETS];
#pragma unroll
      for (u32 o = 0; o < OCTETS; o++)
        octets[o] = w_tile[buffer][staged_at(column + i * 16 + octet_row(o), octet_k(o))];
      Pair<T> b = pair_b(octets);
#pragma unroll
      for (u32 h = 0; h < S::M; h++) mma(tile.acc[h][i], a[h], b);
    }
    if (step + 1 < steps) stage(buffer ^ 1);
    barrier();
  }
}

// out [m, n] = x [m, k] W^T (+ bias [n]), out's rows `stride` values apart. Grid: (tiles along n, tiles along m).
template <class S, class T, class O, class R>
DEV void gemm(const T* __restrict__ x, const R& weights, const float* __restrict__ bias, O* __restrict__ out, u32 m,
              u32 n, u32 k, u32 stride) {
  S tile;
  u32 n_begin = block_x() * S::COLUMNS, m_begin = block_y() * S::ROWS;
  gemm_tile<S, T>(tile, weights, n, k, n_begin, [&](u32 i) { return x + (u64)minimum(m_begin + i, m - 1) * k; });
  tile.each([&](u32 row, u32 column, float value) {
    row += m_begin, column += n_begin;
    if (row >= m || column >= n) return;
    out[(u64)row * stride + column] = from_float<O>(bias ? value + bias[column] : value);
  });
}

// GEMM_TILES(T, O, name, WEIGHTS, parameters...): entry points name_ROWSxCOLUMNS over the reader WEIGHTS, an
// expression of the parameters and k.
#define GEMM_ENTRY(T, O, S, name, WEIGHTS, ...)                                                           \
  KERNEL(name, GEMM_THREADS, 2, const T* x, __VA_ARGS__, const float* bias, O* out, u32 m, u32 n, u32 k, \
         u32 stride) {                                                                                    \
    gemm<S, T>(x, WEIGHTS, bias, out, m, n, k, stride);                                                   \
  }
#define GEMM_TILES(T, O, name, WEIGHTS, ...)                           \
  GEMM_ENTRY(T, O, Tile128x128, name##_128x128, WEIGHTS, __VA_ARGS__) \
  GEMM_ENTRY(T, O, Tile64x64, name##_64x64, WEIGHTS, __VA_ARGS__)     \
  GEMM_ENTRY(T, O, Tile32x128, name##_32x128, WEIGHTS, __VA_ARGS__)
