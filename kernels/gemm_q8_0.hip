// out [m, n] = x [m, k] W [n, k]^T (+ bias [n] f32): ggml's Q8_0 weights.
// x is T, out is T or f32, sums are f32.
// W: codes i8 [n, k], scales f16 [n, k / 32]; k a multiple of 32; n any.
//
// Operations: 2 m n k on weights rounded to T; bytes of W: 1.0625 n k. Bound: matrix throughput.
// CPU reference: src/checkpoint/blocks.rs, src/backend/cpu/matmul/kernel.rs.
#include "gemm.h"

#define GEMM_Q8_0(T)                                                                                 \
  GEMM_TILES(T, T, gemm_q8_0_##T, Q8_0Weights(codes, scales, k), const u8* codes, const f16* scales) \
  GEMM_TILES(T, float, gemm_q8_0_##T##_to_f32, Q8_0Weights(codes, scales, k), const u8* codes, const f16* scales)
GEMM_Q8_0(bf16)
GEMM_Q8_0(f16)
