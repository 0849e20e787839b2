// out [m, n] = x [m, k] W [n, k]^T (+ bias [n] f32) for m <= 16: ggml's Q6_K weights.
// x is T, out is T or f32, sums are f32.
// W: low u8 [n, k / 2], high u8 [n, k / 4], scales i8 [n, k / 16], d f16 [n, k / 256] (see Q6_KWeights); k a
// multiple of 256; n any.
//
// Bytes: 0.82 n k, each read once. Bound: memory.
// CPU reference: src/checkpoint/blocks.rs, src/backend/cpu/matmul/kernel.rs.
#include "gemv.h"

#define GEMV_Q6_K(T)                                                                   \
  GEMV_SIZES_4(T, T, gemv_q6_k_##T, Q6_KWeights(low, high, scales, d, k),              \
               const u8* low, const u8* high, const u8* scales, const f16* d)          \
  GEMV_SIZES_4(T, float, gemv_q6_k_##T##_to_f32, Q6_KWeights(low, high, scales, d, k), \
               const u8* low, const u8* high, const u8* scales, const f16* d)
GEMV_Q6_K(bf16)
GEMV_Q6_K(f16)
