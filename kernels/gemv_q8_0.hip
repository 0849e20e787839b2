// out [m, n] = x [m, k] W [n, k]^T (+ bias [n] f32) for m <= 16: ggml's Q8_0 weights.
// x is T, out is T or f32, sums are f32.
// W: codes i8 [n, k], scales f16 [n, k / 32]; k a multiple of 32; n any.
//
// Bytes: 1.0625 n k, each read once. Bound: memory.
// CPU reference: src/checkpoint/blocks.rs, src/backend/cpu/matmul/kernel.rs.
#include "gemv.h"

#define GEMV_Q8_0(T)                                                                                 \
  GEMV_SIZES(T, T, gemv_q8_0_##T, Q8_0Weights(codes, scales, k), const u8* codes, const f16* scales) \
  GEMV_SIZES(T, float, gemv_q8_0_##T##_to_f32, Q8_0Weights(codes, scales, k), const u8* codes, const f16* scales)
GEMV_Q8_0(bf16)
GEMV_Q8_0(f16)
