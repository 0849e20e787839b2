// Latent attention's keys and values of each head, for sequences that a step begins: K_i c beside the
// rotated key that all heads share, and V_i c, in blocks of 16 positions as kv_cache.h has them, so that
// attention_prefill.hip attends over them as over a cache; and the queries in f16. A block takes a head's
// share of a KV block.
//
// kv [rows, heads * (128 + 128)] T: each head's K_i c, then V_i c (the product of normed latents and
// kv_b); q [rows, heads * (128 + 64)] T; query [rows, heads * (rank + 64)] f16 and cache
// [blocks * 16][rank + 64] f16 as mla_kv_write.hip leaves them, of which the rotated 64 are read; slots
// [rows] u32, all real. blocks [..][2] u32: first row, rows (at most 16, in the order of positions);
// positions without a row become zeros. queries [rows, heads * 192] f16, keys and values: `heads` kv heads
// of 192 and 128 dimensions, block b in place b. rank a multiple of 8.
//
// Grid (blocks, heads). Bytes moved per row and head: 1024 read, 1024 written. Bound: memory.
// CPU reference: none by itself; with its attention, src/backend/cpu/mla (in the latents' space).
#include "kv_cache.h"

static constexpr u32 THREADS = 64;
static constexpr u32 NOPE = 128, ROPE = 64, KD = NOPE + ROPE, VD = 128;

template <class T>
struct alignas(8) Four {
  T v[4];
};
template <class T>
DEV Four<f16> four(const T* from) {
  Four<T> x = __builtin_bit_cast(Four<T>, *(const u32x2*)from);
  return {cache_value(to_float(x.v[0])), cache_value(to_float(x.v[1])), cache_value(to_float(x.v[2])),
          cache_value(to_float(x.v[3]))};
}

// Tiles are stored in pairs: four dimensions (of keys) or positions (of values) of the lower tile, then of the
// upper one, are 16 consecutive bytes.
DEV void store_pair(f16* to, const Four<f16>& lower, const Four<f16>& upper) {
  u32x4 words;
  words.xy = __builtin_bit_cast(u32x2, lower);
  words.zw = __builtin_bit_cast(u32x2, upper);
  *(u32x4*)to = words;
}

template <class T>
DEV void mla_expand(const T* __restrict__ kv, const T* __restrict__ q, const f16* __restrict__ query,
                    const f16* __restrict__ cache, const u32* __restrict__ slots, const u32* __restrict__ blocks,
                    f16* __restrict__ queries, f16* __restrict__ keys, f16* __restrict__ values, u32 heads, u32 rank) {
  u32 head = block_y(), first = blocks[2 * block_x()], rows = blocks[2 * block_x() + 1], entry = rank + ROPE;
  u64 place = (u64)block_x() * heads + head, start = (u64)first * heads + head;
  kv += start * (NOPE + VD);
  q += start * KD;
  query += start * entry + rank;
  queries += start * KD;
  keys += place * KV_BLOCK * KD;
  values += place * KV_BLOCK * VD;
  const Four<f16> none = {0, 0, 0, 0};

#pragma unroll
  for (u32 n = tid(); n < KV_BLOCK * KD / 8; n += THREADS) {
    u32 row = n % 16, d = n / 64 * 32 + n / 16 % 4 * 4;
    Four<f16> lower = none, upper = none;
    if (row < rows) {
      if (d < NOPE) {
        const T* from = kv + (u64)row * heads * (NOPE + VD) + d;
        lower = four(from), upper = four(from + 16);
      } else {
        const f16* from = cache + (u64)slots[first + row] * entry + rank + d - NOPE;
        lower = four(from), upper = four(from + 16);
      }
    }
    store_pair(keys + key_index(KD, row, d), lower, upper);
  }

  // Four positions of four dimensions in each of two tiles, turned.
  u32 d = tid() / 16 * 32 + tid() % 4 * 4, position = tid() / 4 % 4 * 4;
  Four<f16> lower[4], upper[4];
#pragma unroll
  for (u32 p = 0; p < 4; p++) {
    const T* from = kv + (u64)(position + p) * heads * (NOPE + VD) + NOPE + d;
    bool real = position + p < rows;
    lower[p] = real ? four(from) : none, upper[p] = real ? four(from + 16) : none;
  }
#pragma unroll
  for (u32 i = 0; i < 4; i++)
    store_pair(values + value_index(VD, d + i, position),
               {lower[0].v[i], lower[1].v[i], lower[2].v[i], lower[3].v[i]},
               {upper[0].v[i], upper[1].v[i], upper[2].v[i], upper[3].v[i]});

  for (u32 n = tid(); n < rows * KD / 8; n += THREADS) {
    u32 row = n / (KD / 8), at = n % (KD / 8) * 8;
    f16* to = queries + (u64)row * heads * KD + at;
    if (at < NOPE) {
      Eight<T> x = load8(q + (u64)row * heads * KD + at);
      Eight<f16> y;
#pragma unroll
      for (u32 i = 0; i < 8; i++) y.v[i] = cache_value(to_float(x.v[i]));
      store8(to, y);
    } else {
      store8(to, load8(query + (u64)row * heads * entry + at - NOPE));
    }
  }
}

#define MLA_EXPAND(T)                                                                                            \
  KERNEL(mla_expand_##T, THREADS, 4, const T* kv, const T* q, const f16* query, const f16* cache, const u32* slots, \
         const u32* blocks, f16* queries, f16* keys, f16* values, u32 heads, u32 rank) {                         \
    mla_expand<T>(kv, q, query, cache, slots, blocks, queries, keys, values, heads, rank);                       \
  }
MLA_EXPAND(bf16)
MLA_EXPAND(f16)
