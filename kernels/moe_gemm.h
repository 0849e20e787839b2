// Grouped products for mixtures of experts: out[i] = x[row of pair i] W[expert of pair i] transposed, over the
// tiles that moe_sort lists, each of some pairs of one expert. The matrices of the experts, W [experts, n, k],
// lie one after the other, so that to a reader of weights.h they are one matrix of experts * n rows.
//
// x T [any, k]; pair_rows [pairs] u32, or null: pair i takes row i; tiles u32x4 [tiles_max]: expert, first pair,
// number of pairs, 0; blocks of tiles with no pairs end at once. out T [pairs, n]. n any, k as the reader says.
// Results have the bits of the dense product of the same form: pairs do not change one another's.
#pragma once
#include "gemm.h"
#include "gemv.h"

struct MoeTile {
  u32 expert, first, count;
};
DEV MoeTile moe_tile(const u32x4* __restrict__ tiles) {
  u32x4 tile = tiles[block_y()];
  return {tile[0], tile[1], tile[2]};
}

// The address of row i of x for pair `first + i`; beyond the tile's pairs, of the last.
template <class T>
struct MoeRows {
  const T* x;
  const u32* pair_rows;
  MoeTile tile;
  u32 k;
  METHOD const T* operator()(u32 i) const {
    u32 pair = tile.first + minimum(i, tile.count - 1);
    return x + (u64)(pair_rows ? pair_rows[pair] : pair) * k;
  }
};

// Takes the result of pair `first + i` and a row of all experts' W.
template <class T>
struct MoeStore {
  T* out;
  MoeTile tile;
  u32 n;
  METHOD void operator()(u32 i, u32 row, float value) const {
    if (i < tile.count) out[(u64)(tile.first + i) * n + (row - tile.expert * n)] = from_float<T>(value);
  }
};

// At most S::ROWS pairs a tile. Grid: (ceil(n / S::COLUMNS), tiles_max).
template <class S, class T, class R>
DEV void moe_gemm(const T* __restrict__ x, const R& weights, const u32* __restrict__ pair_rows,
                  const u32x4* __restrict__ tiles, T* __restrict__ out, u32 n, u32 k) {
  MoeTile t = moe_tile(tiles);
  if (t.count == 0) return;
  u32 begin = t.expert * n + block_x() * S::COLUMNS, end = t.expert * n + n;
  S tile;
  gemm_tile<S, T>(tile, weights, end, k, begin, MoeRows<T>{x, pair_rows, t, k});
  MoeStore<T> store = {out, t, n};
  tile.each([&](u32 i, u32 column, float value) {
    if (begin + column < end) store(i, begin + column, value);
  });
}

// At most M <= 2 pairs a tile: each expert's weights are read once if it has no more.
// Grid: (ceil(n / BLOCK_ROWS), tiles_max).
template <u32 M, class T, class R>
DEV void moe_gemv_lanes(const T* __restrict__ x, const R& weights, const u32* __restrict__ pair_rows,
                        const u32x4* __restrict__ tiles, T* __restrict__ out, u32 n, u32 k) {
  MoeTile t = moe_tile(tiles);
  if (t.count == 0) return;
  u32 begin = t.expert * n + block_x() * GemvShape<M, R>::BLOCK_ROWS;
  gemv_lanes<M, T>(weights, begin, t.expert * n + n, k, MoeRows<T>{x, pair_rows, t, k}, MoeStore<T>{out, t, n});
}

// At most 16 pairs a tile. Grid: (ceil(n / GEMV_COLUMNS), tiles_max).
template <class T, class R>
DEV void moe_gemv_fragments(const T* __restrict__ x, const R& weights, const u32* __restrict__ pair_rows,
                            const u32x4* __restrict__ tiles, T* __restrict__ out, u32 n, u32 k) {
  MoeTile t = moe_tile(tiles);
  if (t.count == 0) return;
  u32 begin = t.expert * n + block_x() * GEMV_COLUMNS;
  gemv_fragments<T>(weights, begin, t.expert * n + n, k, MoeRows<T>{x, pair_rows, t, k}, MoeStore<T>{out, t, n});
}

// MOE_GEMM(T, name, WEIGHTS, parameters...): entry points over the reader WEIGHTS, an expression of the parameters
// and k: name_ROWSxCOLUMNS for a prefill, name_mM for a decode, where a tile has at most ROWS or M pairs.
#define MOE_TILED(T, S, name, WEIGHTS, ...)                                                                        \
  KERNEL(name##_##S, GEMM_THREADS, 2, const T* x, __VA_ARGS__, const u32* pair_rows, const u32x4* tiles, T* out, \
         u32 n, u32 k) {                                                                                           \
    moe_gemm<Tile##S, T>(x, WEIGHTS, pair_rows, tiles, out, n, k);                                                 \
  }
#define MOE_LANES(T, M, name, WEIGHTS, ...)                                                                        \
  KERNEL(name##_m##M, GEMV_THREADS, 3, const T* x, __VA_ARGS__, const u32* pair_rows, const u32x4* tiles, T* out, \
         u32 n, u32 k) {                                                                                           \
    moe_gemv_lanes<M, T>(x, WEIGHTS, pair_rows, tiles, out, n, k);                                                 \
  }
#define MOE_FRAGMENTS(T, name, WEIGHTS, ...)                                                                       \
  KERNEL(name##_m16, GEMV_THREADS, 3, const T* x, __VA_ARGS__, const u32* pair_rows, const u32x4* tiles, T* out,  \
         u32 n, u32 k) {                                                                                           \
    moe_gemv_fragments<T>(x, WEIGHTS, pair_rows, tiles, out, n, k);                                                \
  }
#define MOE_GEMM(T, name, WEIGHTS, ...)             \
  MOE_TILED(T, 128x128, name, WEIGHTS, __VA_ARGS__) \
  MOE_TILED(T, 64x64, name, WEIGHTS, __VA_ARGS__)   \
  MOE_TILED(T, 32x128, name, WEIGHTS, __VA_ARGS__)  \
  MOE_LANES(T, 1, name, WEIGHTS, __VA_ARGS__)       \
  MOE_LANES(T, 2, name, WEIGHTS, __VA_ARGS__)       \
  MOE_FRAGMENTS(T, name, WEIGHTS, __VA_ARGS__)
