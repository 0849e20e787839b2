// out [m, n] = x [m, k] W [n, k]^T (+ bias [n] f32) for m <= 16: 4-bit weights of a codebook
// (ggml's IQ4_NL, IQ4_XS and MXFP4).
// x is T, out is T or f32, sums are f32.
// W: codes u8 [n, k / 2], scales f32 [n, k / 32], the codebook's 16 i8 in b0 to b3 (see CodebookWeights); k a
// multiple of 32; n any.
//
// Bytes: 0.625 n k, each read once. Bound: memory.
// CPU reference: src/checkpoint/blocks.rs, src/backend/cpu/matmul/kernel.rs.
#include "gemv.h"

#define CODEBOOK CodebookWeights(codes, scales, Words<4>{{b0, b1, b2, b3}}, k)
#define PARAMETERS const u8 *codes, const float *scales, u32 b0, u32 b1, u32 b2, u32 b3
#define GEMV_CODEBOOK(T)                                           \
  GEMV_SIZES_4(T, T, gemv_codebook_##T, CODEBOOK, PARAMETERS)      \
  GEMV_SIZES_4(T, float, gemv_codebook_##T##_to_f32, CODEBOOK, PARAMETERS)
GEMV_CODEBOOK(bf16)
GEMV_CODEBOOK(f16)
