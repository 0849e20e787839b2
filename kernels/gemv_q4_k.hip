// out [m, n] = x [m, k] W [n, k]^T (+ bias [n] f32) for m <= 16: ggml's Q4_K weights.
// x is T, out is T or f32, sums are f32.
// W: blocks u8 [n, k / 256, 144] as in a file; k a multiple of 256; n any.
//
// Bytes: 0.5625 n k, each read once. Bound: memory.
// CPU reference: src/checkpoint/blocks.rs, src/backend/cpu/matmul/kernel.rs.
#include "gemv.h"

#define GEMV_Q4_K(T)                                                          \
  GEMV_SIZES_4(T, T, gemv_q4_k_##T, Q4_KWeights(blocks, k), const u8* blocks) \
  GEMV_SIZES_4(T, float, gemv_q4_k_##T##_to_f32, Q4_KWeights(blocks, k), const u8* blocks)
GEMV_Q4_K(bf16)
GEMV_Q4_K(f16)
