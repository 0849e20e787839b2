// out [m, n] = x [m, k] W [n, k]^T (+ bias [n] f32) for m <= 16: FP8 weights, scaled by blocks of a row.
// x is T, out is T or f32, sums are f32.
// W: codes e4m3 [n, k], scales f32 [n, ceil(k / 128)]; k a multiple of 16; n any.
//
// Bytes: 1.03 n k, each read once. Bound: memory.
// CPU reference: src/checkpoint/blocks.rs, src/backend/cpu/matmul/kernel.rs.
#include "gemv.h"

#define GEMV_FP8(T)                                                                                  \
  GEMV_SIZES(T, T, gemv_fp8_##T, Fp8Weights(codes, scales, k), const u8* codes, const float* scales) \
  GEMV_SIZES(T, float, gemv_fp8_##T##_to_f32, Fp8Weights(codes, scales, k), const u8* codes, const float* scales)
GEMV_FP8(bf16)
GEMV_FP8(f16)
