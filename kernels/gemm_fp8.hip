// out [m, n] = x [m, k] W [n, k]^T (+ bias [n] f32): FP8 weights, scaled by blocks of a row.
// x is T, out is T or f32, sums are f32.
// W: codes e4m3 [n, k], scales f32 [n, ceil(k / 128)]; k a multiple of 16; n any.
//
// Operations: 2 m n k on weights rounded to T; bytes of W: 1.03 n k. Bound: matrix throughput.
// CPU reference: src/checkpoint/blocks.rs, src/backend/cpu/matmul/kernel.rs.
#include "gemm.h"

#define GEMM_FP8(T)                                                                                  \
  GEMM_TILES(T, T, gemm_fp8_##T, Fp8Weights(codes, scales, k), const u8* codes, const float* scales) \
  GEMM_TILES(T, float, gemm_fp8_##T##_to_f32, Fp8Weights(codes, scales, k), const u8* codes, const float* scales)
GEMM_FP8(bf16)
GEMM_FP8(f16)
