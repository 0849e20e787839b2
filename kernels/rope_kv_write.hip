// From each fused qkv row: an RMSNorm of each head of q and k (Qwen3; when weights are given),
// rotary embedding (Su et al. 2021) of the first rotary_dim values of those heads, then q goes to
// its own f16 buffer and k and v to the row's slot of the KV cache.
//
// qkv [rows, (heads + 2 kv_heads) head_dim] T, q_weight and k_weight [head_dim] f32 or null, angles
// [rows, rotary_dim] f32 (cosines, then sines), slots [rows] u32, q [rows, heads * head_dim] f16,
// keys and values as kv_cache.h has it; head_dim a multiple of 16, at most 256; rotary_dim even.
// Block (row, y) does 2048 / padded head_dim heads: 8 values per lane. Bytes moved: 4 per value.
// Bound: memory. CPU reference: src/backend/cpu/rope.rs.
#include "kv_cache.h"

static constexpr u32 THREADS = 256;
// Rotated with the value half of rotary_dim away (GPT-NeoX), or with the neighbour (the paper).
static constexpr u32 INTERLEAVED = 1;

template <class T>
DEV void rope_kv_write(const T* __restrict__ qkv, const float* __restrict__ q_weight,
                       const float* __restrict__ k_weight, const float* __restrict__ angles,
                       const u32* __restrict__ slots, f16* __restrict__ q, f16* __restrict__ keys,
                       f16* __restrict__ values, u32 heads, u32 kv_heads, u32 head_dim, u32 rotary_dim, u32 style,
                       float eps) {
  // Value i of a work-item, at i * THREADS + tid(): no two lanes meet in a bank.
  LDS float shared[8 * THREADS];
  u32 row = block_x(), lanes = head_dim <= 64 ? 8 : head_dim <= 128 ? 16 : 32;
  u32 head = block_y() * (THREADS / lanes) + tid() / lanes, d = tid() % lanes * 8;
  u32 total = heads + 2 * kv_heads;
  bool holds = head < total && d < head_dim, is_value = head >= heads + kv_heads, is_q = head < heads;

  float x[8] = {};
  if (holds) {
    Eight<T> stored = load8(qkv + ((u64)row * total + head) * head_dim + d);
    for (u32 i = 0; i < 8; i++) x[i] = to_float(stored.v[i]);
  }
  if (q_weight) {
    float squares = 0;
    for (u32 i = 0; i < 8; i++) squares += x[i] * x[i];
    float scale = fast_rsqrt(wave_sum(squares, lanes) / (float)head_dim + eps);
    if (holds && !is_value) {
      const float* weight = (is_q ? q_weight : k_weight) + d;
      for (u32 i = 0; i < 8; i++) x[i] *= scale * weight[i];
    }
  }
  for (u32 i = 0; i < 8; i++) shared[i * THREADS + tid()] = x[i];
  barrier();
  if (!holds) return;

  if (!is_value && d < rotary_dim) {
    const float* cosines = angles + (u64)row * rotary_dim;
    u32 half = rotary_dim / 2, first = tid() - d / 8;
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
      u32 at = d + i;
      if (at >= rotary_dim) break;
      bool second = style == INTERLEAVED ? at % 2 != 0 : at >= half;
      u32 other = style == INTERLEAVED ? at ^ 1 : second ? at - half : at + half;
      u32 angle = style == INTERLEAVED ? at / 2 : second ? at - half : at;
      float partner = shared[other % 8 * THREADS + first + other / 8];
      float cosine = cosines[angle], sine = cosines[half + angle];
      x[i] = x[i] * cosine + (second ? partner : -partner) * sine;
    }
  }

  Eight<f16> y;
  for (u32 i = 0; i < 8; i++) y.v[i] = cache_value(x[i]);
  if (is_q) {
    store8(q + ((u64)row * heads + head) * head_dim + d, y);
    return;
  }
  u32 slot = slots[row];
  if (slot == NO_SLOT) return;
  u32 kv_head = head - heads - (is_value ? kv_heads : 0), offset = slot % KV_BLOCK;
  u64 base = ((u64)(slot / KV_BLOCK) * kv_heads + kv_head) * KV_BLOCK * head_dim;
  if (is_value) {
    for (u32 i = 0; i < 8; i++) values[base + value_index(head_dim, d + i, offset)] = y.v[i];
  } else {
    u32x4 words = __builtin_bit_cast(u32x4, y);
    *(u32x2*)(keys + base + key_index(head_dim, offset, d)) = words.xy;
    *(u32x2*)(keys + base + key_index(head_dim, offset, d + 4)) = words.zw;
  }
}

#define ROPE_KV_WRITE(T)                                                                                             \
  KERNEL(rope_kv_write_##T, THREADS, 4, const T* qkv, const float* q_weight, const float* k_weight,                  \
         const float* angles, const u32* slots, f16* q, f16* keys, f16* values, u32 heads, u32 kv_heads,             \
         u32 head_dim, u32 rotary_dim, u32 style, float eps) {                                                       \
    rope_kv_write<T>(qkv, q_weight, k_weight, angles, slots, q, keys, values, heads, kv_heads, head_dim, rotary_dim, \
                     style, eps);                                                                                    \
  }
ROPE_KV_WRITE(bf16)
ROPE_KV_WRITE(f16)
