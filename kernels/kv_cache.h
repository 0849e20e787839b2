// The KV cache of a layer: one array of keys, one of values, both f16, in blocks of 16 tokens:
//
//   keys   [block][kv_head][16 * key_dim], in it the matrix [16 positions, key_dim]
//   values [block][kv_head][16 * value_dim], in it the matrix [value_dim, 16 positions]
//
// each stored as the A operands of mma for S^T = K Q^T and O^T = V^T P^T: 32 dimensions are a tile
// pair (port.h), first the tile of the lower 16; 16 dimensions left over are a tile, row by row.
// So a block and head is read from consecutive addresses, 16 bytes per lane, with no way through
// LDS, and any copy of it keeps this form. Head dimensions are multiples of 16, slots of tokens are
// block * 16 + offset.
//
// MI200's matrix instructions take what is below 6.1e-5, subnormal in f16, for zero. Keys and values of some
// hundredths and more lose less by that than by being rounded to f16 (docs/amd.md).
//
// Invariant: all values are finite, those of positions that no token has too (a weight of 0 is
// multiplied with them). A new cache is zeroed, and writers store cache_value(x).
#pragma once
#include "port.h"

static constexpr u32 KV_BLOCK = 16;
// The slot of a padding row.
static constexpr u32 NO_SLOT = 0xffffffff;

// Where d..d + 4 of a row of [16, dim] stand; d is a multiple of 4. Also of q as the B operand.
DEV u32 key_index(u32 dim, u32 row, u32 d) {
  u32 pair = d & ~31u;
  if (pair + 32 > dim) return pair * 16 + row * 16 + d % 16;
  return pair * 16 + ((d % 16 / 4 * 16 + row) * 2 + d % 32 / 16) * 4;
}

// Where dimension d of a position stands in [dim, 16].
DEV u32 value_index(u32 dim, u32 d, u32 position) {
  u32 pair = d & ~31u;
  if (pair + 32 > dim) return pair * 16 + d % 16 * 16 + position;
  return pair * 16 + ((position / 4 * 16 + d % 16) * 2 + d % 32 / 16) * 4 + position % 4;
}

DEV f16 cache_value(float x) { return (f16)(x < 65504.0f ? (x > -65504.0f ? x : -65504.0f) : 65504.0f); }

// The operands of DIM / 16 tiles, as stored above; load_a_tiles(p, tiles, t) those of tile t, even,
// and its pair's other one.
template <u32 DIM>
DEV void load_a_tiles(const f16* p, Fragment<f16> (&tiles)[DIM / 16], u32 t) {
  if (t + 1 < DIM / 16) load_a_pair(p + t * 256, tiles[t], tiles[t + 1]);
  else tiles[t] = load_a(p + t * 256, 16);
}
template <u32 DIM>
DEV void load_a_tiles(const f16* p, Fragment<f16> (&tiles)[DIM / 16]) {
#pragma unroll
  for (u32 t = 0; t < DIM / 16; t += 2) load_a_tiles<DIM>(p, tiles, t);
}
template <u32 DIM>
DEV void load_b_tiles(const f16* p, Fragment<f16> (&tiles)[DIM / 16]) {
#pragma unroll
  for (u32 t = 0; t < DIM / 16; t += 2) {
    if (t + 1 < DIM / 16) load_b_pair(p + t * 256, tiles[t], tiles[t + 1]);
    else tiles[t] = load_b(p + t * 256, 16);
  }
}
