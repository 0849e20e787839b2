// Causal paged attention of the rows of prefill chunks: out[r] = softmax(scale q k^T) v over the
// row's sequence up to its own position (FlashAttention-2, Dao 2023).
//
// A block takes the rows of a work item with all query heads of one kv head: `group` query heads per
// row, at most TILE queries in all, so that keys and values are read once for the group. It walks
// over the KV positions in steps staged in LDS, the next one in flight meanwhile; every wave keeps
// 16 or 32 queries. S^T = K Q^T, so that a query is a column: the softmax of a query stays in its
// lanes, and S^T's accumulator becomes the B operand of O^T = V^T P^T with no way through LDS.
//
// q [rows, heads * KD] f16, keys and values as in kv_cache.h, items [count][4] u32 (first row, number
// of rows <= TILE / group, position of the first row, where its block table starts in `tables`),
// item_count: how many of the items are real, out [rows, heads * VD] T. Grid (items, kv_heads).
// window: a row at position p sees positions > p - window only; 0: all. Bytes moved per item: its
// keys and values once. Bound: matrix throughput, 2 (KD + VD) operations per query and position.
// CPU reference: src/backend/cpu/attention.
#include "attention.h"

static constexpr u32 THREADS = 256;

template <u32 KD, u32 VD>
struct Shape {
  static constexpr u32 TILE = KD <= 128 ? 128 : 64;
  // Of a wave: groups of 16 queries.
  static constexpr u32 GROUPS = WAVE == 64 && KD <= 128 ? 2 : 1;
  // Where there are twice as many waves as that takes, two waves share the dimensions of V.
  static constexpr u32 QUERY_WAVES = TILE / 16 / GROUPS, PARTS = THREADS / WAVE / QUERY_WAVES;
  // Of a step: KV blocks.
  static constexpr u32 STEP = KD <= (WAVE == 64 ? 128 : 96) ? 2 : 1;
  static constexpr u32 K_BLOCK = KV_BLOCK * KD, V_BLOCK = KV_BLOCK * VD;
  // RDNA holds operands twice in a wave: long queries do not fit its registers.
  static constexpr bool Q_IN_LDS = WAVE == 32 && KD > 128;
  static constexpr u32 BUFFERS = Q_IN_LDS && VD > 128 ? 1 : 2;
  static constexpr u32 BUFFER = STEP * (K_BLOCK + V_BLOCK), Q_SIZE = TILE * KD, KV_SIZE = BUFFERS * BUFFER;
  static constexpr u32 LDS_SIZE = Q_IN_LDS ? Q_SIZE + KV_SIZE : Q_SIZE > KV_SIZE ? Q_SIZE : KV_SIZE;
  // Of a work-item: loads of 16 bytes.
  static constexpr u32 K_LOADS = (STEP * K_BLOCK / 8 + THREADS - 1) / THREADS;
  static constexpr u32 V_LOADS = (STEP * V_BLOCK / 8 + THREADS - 1) / THREADS;
};

// The blocks of a step; past the end it is the last block again, hidden by the mask.
template <u32 STEP>
struct Ids {
  u32 v[STEP];
};
template <u32 STEP>
DEV Ids<STEP> step_ids(const u32* table, u32 step, u32 blocks) {
  Ids<STEP> ids;
  for (u32 t = 0; t < STEP; t++) ids.v[t] = table[minimum(step * STEP + t, blocks - 1)];
  return ids;
}

// A work-item's share of them, in `N` loads.
template <u32 SIZE, u32 STEP, u32 N>
DEV void fetch(const f16* cache, const Ids<STEP>& ids, u32 kv_heads, u32x4 (&staged)[N]) {
#pragma unroll
  for (u32 n = 0; n < N; n++) {
    u32 at = (n * THREADS + tid()) * 8, id = ids.v[STEP - 1];
    if (STEP == 2 && at < SIZE) id = ids.v[0];
    if (N * THREADS * 8 == STEP * SIZE || at < STEP * SIZE)
      staged[n] = *(const u32x4*)(cache + ((u64)id * kv_heads + block_y()) * SIZE + at % SIZE);
  }
}
template <u32 SIZE, u32 N>
DEV void put(f16* lds, const u32x4 (&staged)[N]) {
#pragma unroll
  for (u32 n = 0; n < N; n++) {
    u32 at = (n * THREADS + tid()) * 8;
    if (N * THREADS * 8 == SIZE || at < SIZE) *(u32x4*)(lds + at) = staged[n];
  }
}

template <class T, u32 KD, u32 VD>
DEV void attention_prefill(const f16* __restrict__ q, const f16* __restrict__ keys, const f16* __restrict__ values,
                           const u32* __restrict__ items, const u32* __restrict__ item_count,
                           const u32* __restrict__ tables, T* __restrict__ out, u32 heads, u32 kv_heads, u32 window,
                           float scale) {
  typedef Shape<KD, VD> S;
  constexpr u32 GROUPS = S::GROUPS, STEP = S::STEP, POSITIONS = STEP * KV_BLOCK;
  constexpr u32 MY_VD = VD / S::PARTS;
  LDS f16 shared[S::LDS_SIZE];
  f16* buffers = shared + (S::Q_IN_LDS ? S::Q_SIZE : 0);

  if (block_x() >= *item_count) return;
  const u32* item = items + 4 * block_x();
  u32 row = item[0], rows = item[1], position = item[2], group = heads / kv_heads, queries = rows * group;
  const u32* table = tables + item[3];
  u32 end = position + rows, blocks = (end + KV_BLOCK - 1) / KV_BLOCK;
  u32 first_step = window && position + 1 > window ? (position + 1 - window) / POSITIONS : 0;
  u32 steps = (end + POSITIONS - 1) / POSITIONS;

  u32x4 staged_k[S::K_LOADS], staged_v[S::V_LOADS];
  Ids<STEP> ids = step_ids<STEP>(table, first_step, blocks);
  fetch<S::K_BLOCK>(keys, ids, kv_heads, staged_k);
  fetch<S::V_BLOCK>(values, ids, kv_heads, staged_v);
  ids = step_ids<STEP>(table, first_step + 1, blocks);

  // Query j is head j % group of row j / group.
  for (u32 n = tid(); n < S::Q_SIZE / 8; n += THREADS) {
    u32 j = n / (2 * KD) * 16 + n % 16, d = n / 16 % (KD / 8) * 8;
    u32x4 words = {0, 0, 0, 0};
    if (j < queries)
      words = *(const u32x4*)(q + ((u64)(row + j / group) * heads + block_y() * group + j % group) * KD + d);
    f16* to = shared + j / 16 * 16 * KD;
    *(u32x2*)(to + key_index(KD, j % 16, d)) = words.xy;
    *(u32x2*)(to + key_index(KD, j % 16, d + 4)) = words.zw;
  }
  barrier();
  u32 my_first = wave() % S::QUERY_WAVES * GROUPS * 16, my_d = wave() / S::QUERY_WAVES * MY_VD;
  const f16* my_queries = shared + my_first * KD;
  Fragment<f16> b[GROUPS][KD / 16];
  if constexpr (!S::Q_IN_LDS) {
#pragma unroll
    for (u32 g = 0; g < GROUPS; g++) load_b_tiles<KD>(my_queries + g * 16 * KD, b[g]);
    barrier();
  }
  f16* buffer = buffers + first_step % S::BUFFERS * S::BUFFER;
  put<STEP * S::K_BLOCK>(buffer, staged_k);
  put<STEP * S::V_BLOCK>(buffer + STEP * S::K_BLOCK, staged_v);
  barrier();

  // The last position that each query sees; queries past the end see what the last one does.
  u32 sees[GROUPS][Acc::COLUMNS];
#pragma unroll
  for (u32 g = 0; g < GROUPS; g++)
#pragma unroll
    for (u32 c = 0; c < Acc::COLUMNS; c++)
      sees[g][c] = position + minimum((my_first + g * 16 + slot_col(c)) / group, rows - 1);
  u32 my_low = position + minimum(my_first / group, rows - 1);
  u32 my_high = position + minimum((my_first + GROUPS * 16 - 1) / group, rows - 1);
  Softmax softmax[GROUPS];
  for (u32 g = 0; g < GROUPS; g++) start(softmax[g]);
  Acc o[GROUPS][MY_VD / 16];

  for (u32 step = first_step; step < steps; step++) {
    const f16* k = buffers + step % S::BUFFERS * S::BUFFER;
    const f16* v = k + STEP * S::K_BLOCK + my_d * KV_BLOCK;
    bool more = step + 1 < steps;
    if (more) {
      fetch<S::K_BLOCK>(keys, ids, kv_heads, staged_k);
      fetch<S::V_BLOCK>(values, ids, kv_heads, staged_v);
      ids = step_ids<STEP>(table, step + 2, blocks);
    }
    u32 first = step * POSITIONS;
    if (my_first < queries && first <= my_high && (!window || first + POSITIONS + window > my_low + 1)) {
      Acc s[GROUPS][STEP];
#pragma unroll
      for (u32 t = 0; t < STEP; t++) {
#pragma unroll
        for (u32 d = 0; d < KD; d += 32) {
          Fragment<f16> a[2];
          if (d + 32 <= KD) load_a_pair(k + t * S::K_BLOCK + d * 16, a[0], a[1]);
          else a[0] = load_a(k + t * S::K_BLOCK + d * 16, 16);
#pragma unroll
          for (u32 g = 0; g < GROUPS; g++) {
            if constexpr (S::Q_IN_LDS) load_b_pair(my_queries + (g * KD + d) * 16, b[g][0], b[g][1]);
            u32 tile = S::Q_IN_LDS ? 0 : d / 16;
            mma(s[g][t], a[0], b[g][tile]);
            if (d + 32 <= KD) mma(s[g][t], a[1], b[g][tile + 1]);
          }
        }
      }
      if (first + POSITIONS - 1 > my_low || (window && first + window <= my_high)) {
#pragma unroll
        for (u32 g = 0; g < GROUPS; g++)
#pragma unroll
          for (u32 t = 0; t < STEP; t++)
#pragma unroll
            for (u32 i = 0; i < Acc::N; i++) {
              u32 at = first + t * KV_BLOCK + acc_row(i), last = sees[g][acc_slot(i)];
              if (at > last || (window && at + window <= last)) s[g][t].v[i] = HIDDEN;
            }
      }
#pragma unroll
      for (u32 g = 0; g < GROUPS; g++) {
        float factor[Acc::COLUMNS];
        add_scores(softmax[g], s[g], scale * LOG2_E, factor);
        multiply(o[g], factor);
      }
#pragma unroll
      for (u32 t = 0; t < STEP; t++) {
        Fragment<f16> p[GROUPS];
#pragma unroll
        for (u32 g = 0; g < GROUPS; g++) p[g] = to_b<f16>(s[g][t]);
#pragma unroll
        for (u32 d = 0; d < MY_VD; d += 32) {
          Fragment<f16> a[2];
          if (d + 32 <= MY_VD) load_a_pair(v + t * S::V_BLOCK + d * 16, a[0], a[1]);
          else a[0] = load_a(v + t * S::V_BLOCK + d * 16, 16);
#pragma unroll
          for (u32 g = 0; g < GROUPS; g++) {
            mma(o[g][d / 16], a[0], p[g]);
            if (d + 32 <= MY_VD) mma(o[g][d / 16 + 1], a[1], p[g]);
          }
        }
      }
    }
    if (S::BUFFERS == 1) barrier();
    if (more) {
      f16* next = buffers + (step + 1) % S::BUFFERS * S::BUFFER;
      put<STEP * S::K_BLOCK>(next, staged_k);
      put<STEP * S::V_BLOCK>(next + STEP * S::K_BLOCK, staged_v);
    }
    barrier();
  }

#pragma unroll
  for (u32 g = 0; g < GROUPS; g++) {
    float inverse[Acc::COLUMNS];
    for (u32 c = 0; c < Acc::COLUMNS; c++) inverse[c] = 1.0f / column_sum(softmax[g].sum[c]);
    multiply(o[g], inverse);
    T* to[Acc::COLUMNS];
    bool real[Acc::COLUMNS];
#pragma unroll
    for (u32 c = 0; c < Acc::COLUMNS; c++) {
      u32 j = my_first + g * 16 + slot_col(c);
      real[c] = j < queries;
      to[c] = out + ((u64)(row + j / group) * heads + block_y() * group + j % group) * VD + my_d;
    }
#pragma unroll
    for (u32 t = 0; t < MY_VD / 16; t++)
#pragma unroll
      for (u32 i = 0; i < Acc::N; i++)
        if (real[acc_slot(i)]) to[acc_slot(i)][t * 16 + acc_row(i)] = from_float<T>(o[g][t].v[i]);
  }
}

#define ATTENTION_PREFILL(T, NAME, KD, VD)                                                                      \
  KERNEL(attention_prefill_##T##_##NAME, THREADS, 2, const f16* q,                                              \
         const f16* keys, const f16* values, const u32* items, const u32* item_count, const u32* tables, T* out, \
         u32 heads, u32 kv_heads, u32 window, float scale) {                                                    \
    attention_prefill<T, KD, VD>(q, keys, values, items, item_count, tables, out, heads, kv_heads, window, scale); \
  }
#define ATTENTION_PREFILL_OF(NAME, KD, VD) \
  ATTENTION_PREFILL(bf16, NAME, KD, VD)    \
  ATTENTION_PREFILL(f16, NAME, KD, VD)
ATTENTION_PREFILL_OF(16, 16, 16)
ATTENTION_PREFILL_OF(32, 32, 32)
ATTENTION_PREFILL_OF(64, 64, 64)
ATTENTION_PREFILL_OF(80, 80, 80)
ATTENTION_PREFILL_OF(96, 96, 96)
ATTENTION_PREFILL_OF(128, 128, 128)
// Of latents, expanded (mla_expand.hip).
ATTENTION_PREFILL_OF(192_128, 192, 128)
ATTENTION_PREFILL_OF(256, 256, 256)
