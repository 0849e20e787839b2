// out [m, n] = x [m, k] W [n, k]^T (+ bias [n] f32): 4-bit weights of a codebook
// (ggml's IQ4_NL, IQ4_XS and MXFP4).
// x is T, out is T or f32, sums are f32.
// W: codes u8 [n, k / 2], scales f32 [n, k / 32], the codebook's 16 i8 in b0 to b3 (see CodebookWeights); k a
// multiple of 32; n any.
//
// Operations: 2 m n k on weights rounded to T; bytes of W: 0.625 n k. Bound: matrix throughput.
// CPU reference: src/checkpoint/blocks.rs, src/backend/cpu/matmul/kernel.rs.
#include "gemm.h"

#define CODEBOOK CodebookWeights(codes, scales, Words<4>{{b0, b1, b2, b3}}, k)
#define PARAMETERS const u8 *codes, const float *scales, u32 b0, u32 b1, u32 b2, u32 b3
#define GEMM_CODEBOOK(T)                                         \
  GEMM_TILES(T, T, gemm_codebook_##T, CODEBOOK, PARAMETERS)      \
  GEMM_TILES(T, float, gemm_codebook_##T##_to_f32, CODEBOOK, PARAMETERS)
GEMM_CODEBOOK(bf16)
GEMM_CODEBOOK(f16)
