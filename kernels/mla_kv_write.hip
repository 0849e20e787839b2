// The rotary part of latent attention: a row's latent is normed (RMSNorm), its shared key turned by
// its position's angles (RoPE, Su et al. 2021), both go to the row's slot of the cache; the rotary
// part of each head's q goes, turned, behind the head's absorbed query, which head_linear.hip writes.
// Where keys and values are expanded (mla_expand.hip), the normed latent also goes to `normed`, as the
// cache has it, to be multiplied with kv_b. One block per row.
//
// q [rows, heads * (nope + rope)] T, latent [rows, rank + rope] T, norm [rank] f32, angles
// [rows, rope] f32 (cos, then sin), slots [rows] u32 (0xffffffff: the cache stays as it is), cache
// [blocks * 16][rank + rope] f16, query [rows, heads * (rank + rope)] f16, normed [rows, rank] T or null.
// All of nope, rope and rank multiples of 8, rank at most 2048. Pairs of dimensions: i with i + rope / 2
// ("half") or 2 i with 2 i + 1 ("interleaved").
//
// What goes to f16 is clamped to its range, so that an outlier is not an infinity, whose products
// are NaN. Bytes moved per row: 4 heads * rope + 4 (rank + rope) + the angles. Bound: memory. CPU
// reference: src/backend/cpu/mla/write.rs.
#include "port.h"

static constexpr u32 THREADS = 256;

DEV f16 to_f16(float x) { return from_float<f16>(maximum(minimum(x, 65504.0f), -65504.0f)); }

template <class T>
struct alignas(8) Four {
  T v[4];
};

// Pairs 4 i .. 4 i + 4 of a head's `rope` dimensions.
template <bool HALF, class T>
DEV void rotate(const T* __restrict__ from, f16* __restrict__ to, const float* __restrict__ angles, u32 rope, u32 i) {
  u32 low = HALF ? 4 * i : 8 * i, high = HALF ? low + rope / 2 : low + 4;
  f32x4 cos = *(const f32x4*)(angles + 4 * i), sin = *(const f32x4*)(angles + rope / 2 + 4 * i);
  Four<T> x[2] = {__builtin_bit_cast(Four<T>, *(const u32x2*)(from + low)),
                  __builtin_bit_cast(Four<T>, *(const u32x2*)(from + high))};
  Four<f16> y[2];
#pragma unroll
  for (u32 p = 0; p < 4; p++) {
    // Where the pair's two values are.
    u32 h0 = HALF ? 0 : p / 2, i0 = HALF ? p : 2 * p % 4, h1 = HALF ? 1 : h0, i1 = HALF ? p : i0 + 1;
    float a = to_float(x[h0].v[i0]), b = to_float(x[h1].v[i1]);
    y[h0].v[i0] = to_f16(a * cos[p] - b * sin[p]);
    y[h1].v[i1] = to_f16(b * cos[p] + a * sin[p]);
  }
  *(u32x2*)(to + low) = __builtin_bit_cast(u32x2, y[0]);
  *(u32x2*)(to + high) = __builtin_bit_cast(u32x2, y[1]);
}

template <class T, bool HALF>
DEV void mla_kv_write(const T* __restrict__ q, const T* __restrict__ latent, const float* __restrict__ norm,
                      const float* __restrict__ angles, const u32* __restrict__ slots, f16* __restrict__ cache,
                      f16* __restrict__ query, T* __restrict__ normed, u32 heads, u32 nope, u32 rope, u32 rank,
                      float eps) {
  LDS float scratch[THREADS / 32];
  u32 row = block_x(), entry = rank + rope, units = rope / 8, slot = slots[row], c = tid() * 8;
  latent += (u64)row * entry;
  angles += (u64)row * rope;
  f16* to = cache + (u64)slot * entry;

  float x[8] = {0, 0, 0, 0, 0, 0, 0, 0}, squares = 0;
  if (c < rank) {
    Eight<T> eight = load8(latent + c);
    for (u32 i = 0; i < 8; i++) {
      x[i] = to_float(eight.v[i]);
      squares += x[i] * x[i];
    }
  }
  float scale = fast_rsqrt(block_sum<THREADS>(squares, scratch) / (float)rank + eps);
  if (slot != 0xffffffff) {
    if (c < rank) {
      Eight<f16> y;
      for (u32 i = 0; i < 8; i++) y.v[i] = to_f16(x[i] * scale * norm[c + i]);
      store8(to + c, y);
      if (normed) {
        Eight<T> z;
        for (u32 i = 0; i < 8; i++) z.v[i] = from_float<T>(to_float(y.v[i]));
        store8(normed + (u64)row * rank + c, z);
      }
    }
    // By the last work-items, which have no latents.
    u32 unit = THREADS - 1 - tid();
    if (unit < units) rotate<HALF>(latent + rank, to + rank, angles, rope, unit);
  }
  q += (u64)row * heads * (nope + rope);
  query += (u64)row * heads * entry;
  for (u32 u = tid(); u < heads * units; u += THREADS) {
    u32 head = u / units, unit = u % units;
    rotate<HALF>(q + head * (nope + rope) + nope, query + head * entry + rank, angles, rope, unit);
  }
}

#define MLA_KV_WRITE(T, style, half)                                                                                  \
  KERNEL(mla_kv_write_##T##_##style, THREADS, 4, const T* q, const T* latent, const float* norm, const float* angles, \
         const u32* slots, f16* cache, f16* query, T* normed, u32 heads, u32 nope, u32 rope, u32 rank, float eps) {   \
    mla_kv_write<T, half>(q, latent, norm, angles, slots, cache, query, normed, heads, nope, rope, rank, eps);        \
  }
MLA_KV_WRITE(bf16, half, true)
MLA_KV_WRITE(bf16, interleaved, false)
MLA_KV_WRITE(f16, half, true)
MLA_KV_WRITE(f16, interleaved, false)
