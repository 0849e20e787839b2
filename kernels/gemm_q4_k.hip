// out [m, n] = x [m, k] W [n, k]^T (+ bias [n] f32): ggml's Q4_K weights.
// x is T, out is T or f32, sums are f32.
// W: blocks u8 [n, k / 256, 144] as in a file; k a multiple of 256; n any.
//
// Operations: 2 m n k on weights rounded to T; bytes of W: 0.5625 n k. Bound: matrix throughput.
// CPU reference: src/checkpoint/blocks.rs, src/backend/cpu/matmul/kernel.rs.
#include "gemm.h"

#define GEMM_Q4_K(T)                                                        \
  GEMM_TILES(T, T, gemm_q4_k_##T, Q4_KWeights(blocks, k), const u8* blocks) \
  GEMM_TILES(T, float, gemm_q4_k_##T##_to_f32, Q4_KWeights(blocks, k), const u8* blocks)
GEMM_Q4_K(bf16)
GEMM_Q4_K(f16)
