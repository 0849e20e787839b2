// residual += delta (when given); out = residual / rms(residual) * weight (RMSNorm, Zhang &
// Sennrich 2019). One block per row; the row stays in registers between the two passes.
//
// residual [rows, columns] f32, delta and out [rows, columns] T, weight [columns] f32;
// columns a multiple of 8, at most 16384. Bytes moved per value: 8 (residual) + 2 (delta) + 2 (out).
// Bound: memory. CPU reference: src/backend/cpu/norm.rs.
#include "port.h"

static constexpr u32 THREADS = 256;
// Groups of 8 values that a work-item holds.
static constexpr u32 HELD = 8;

template <class T>
DEV void add_rms_norm(float* __restrict__ residual, const T* __restrict__ delta, const float* __restrict__ weight,
                      T* __restrict__ out, u32 columns, float eps) {
  LDS float scratch[THREADS / 32];
  u64 row = (u64)block_x() * columns;
  float held[HELD][8];
  float squares = 0;
#pragma unroll
  for (u32 h = 0; h < HELD; h++) {
    u32 c = (h * THREADS + tid()) * 8;
    if (c >= columns) break;
    f32x4 low = *(const f32x4*)(residual + row + c), high = *(const f32x4*)(residual + row + c + 4);
    for (u32 i = 0; i < 4; i++) held[h][i] = low[i], held[h][i + 4] = high[i];
    if (delta) {
      Eight<T> d = load8(delta + row + c);
      for (u32 i = 0; i < 8; i++) held[h][i] += to_float(d.v[i]);
      for (u32 i = 0; i < 4; i++) low[i] = held[h][i], high[i] = held[h][i + 4];
      *(f32x4*)(residual + row + c) = low;
      *(f32x4*)(residual + row + c + 4) = high;
    }
    for (u32 i = 0; i < 8; i++) squares += held[h][i] * held[h][i];
  }
  float scale = fast_rsqrt(block_sum<THREADS>(squares, scratch) / (float)columns + eps);
#pragma unroll
  for (u32 h = 0; h < HELD; h++) {
    u32 c = (h * THREADS + tid()) * 8;
    if (c >= columns) break;
    Eight<T> y;
    for (u32 i = 0; i < 8; i++) y.v[i] = from_float<T>(held[h][i] * scale * weight[c + i]);
    store8(out + row + c, y);
  }
}

#define ADD_RMS_NORM(T)                                                                              \
  KERNEL(add_rms_norm_##T, THREADS, 4, float* residual, const T* delta, const float* weight, T* out, \
         u32 columns, float eps) {                                                                   \
    add_rms_norm<T>(residual, delta, weight, out, columns, eps);                                     \
  }
ADD_RMS_NORM(bf16)
ADD_RMS_NORM(f16)
