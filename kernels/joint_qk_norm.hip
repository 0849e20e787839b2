// RMSNorm over all of q and over all of k of each fused qkv row, in place (MiniMax-M2), where the
// heads may be spread over ranks: first each rank's sums of squares, which the ranks then add up,
// then the scaling.
//
// qkv [rows, (heads + 2 kv_heads) head_dim] T, of which q is the first q_dim and k the next k_dim
// values; sums [rows, 2] f32; q_weight [q_dim], k_weight [k_dim] f32, this rank's part. q_dim and
// k_dim are multiples of 8. One block per row. q_count and k_count: how many values each sum is of;
// heads that several ranks hold count as often there as in the sums.
// Bytes moved per value: 2 for the sums, 4 for the scaling. Bound: memory.
// CPU reference: src/backend/cpu/norm.rs.
#include "port.h"

static constexpr u32 THREADS = 256;

// Loads in flight per work-item.
static constexpr u32 HELD = 4;

// visit(first column, 8 values) for the work-item's share.
template <class T, class F>
DEV void for_groups(const T* p, u32 columns, F visit) {
  for (u32 base = tid() * 8; base < columns; base += HELD * THREADS * 8) {
    Eight<T> x[HELD];
#pragma unroll
    for (u32 h = 0; h < HELD; h++)
      if (base + h * THREADS * 8 < columns) x[h] = load8(p + base + h * THREADS * 8);
#pragma unroll
    for (u32 h = 0; h < HELD; h++)
      if (base + h * THREADS * 8 < columns) visit(base + h * THREADS * 8, x[h]);
  }
}

template <class T>
DEV float squares(const T* p, u32 columns) {
  float sum = 0;
  for_groups(p, columns, [&](u32, const Eight<T>& x) __attribute__((always_inline)) {
    for (u32 i = 0; i < 8; i++) sum += to_float(x.v[i]) * to_float(x.v[i]);
  });
  return sum;
}

template <class T>
DEV void joint_qk_sums(const T* __restrict__ qkv, float* __restrict__ sums, u32 columns, u32 q_dim, u32 k_dim) {
  LDS float scratch[2][THREADS / 32];
  const T* row = qkv + (u64)block_x() * columns;
  float q = squares(row, q_dim), k = squares(row + q_dim, k_dim);
  q = block_sum<THREADS>(q, scratch[0]);
  k = block_sum<THREADS>(k, scratch[1]);
  if (tid() == 0) {
    sums[block_x() * 2] = q;
    sums[block_x() * 2 + 1] = k;
  }
}

template <class T>
DEV void scale_by(T* p, const float* weight, u32 columns, float scale) {
  for_groups(p, columns, [&](u32 c, const Eight<T>& x) __attribute__((always_inline)) {
    Eight<T> y;
    for (u32 i = 0; i < 8; i++) y.v[i] = from_float<T>(to_float(x.v[i]) * scale * weight[c + i]);
    store8(p + c, y);
  });
}

template <class T>
DEV void joint_qk_scale(T* __restrict__ qkv, const float* __restrict__ sums, const float* __restrict__ q_weight,
                        const float* __restrict__ k_weight, u32 columns, u32 q_dim, u32 k_dim, float q_count,
                        float k_count, float eps) {
  T* row = qkv + (u64)block_x() * columns;
  scale_by(row, q_weight, q_dim, fast_rsqrt(sums[block_x() * 2] / q_count + eps));
  scale_by(row + q_dim, k_weight, k_dim, fast_rsqrt(sums[block_x() * 2 + 1] / k_count + eps));
}

#define JOINT_QK_NORM(T)                                                                                        \
  KERNEL(joint_qk_sums_##T, THREADS, 4, const T* qkv, float* sums, u32 columns, u32 q_dim, u32 k_dim) {         \
    joint_qk_sums<T>(qkv, sums, columns, q_dim, k_dim);                                                         \
  }                                                                                                             \
  KERNEL(joint_qk_scale_##T, THREADS, 4, T* qkv, const float* sums, const float* q_weight, const float* k_weight, \
         u32 columns, u32 q_dim, u32 k_dim, float q_count, float k_count, float eps) {                          \
    joint_qk_scale<T>(qkv, sums, q_weight, k_weight, columns, q_dim, k_dim, q_count, k_count, eps);             \
  }
JOINT_QK_NORM(bf16)
JOINT_QK_NORM(f16)
