// out[i] = x[row of pair i] W[expert of pair i]^T over tiles of pairs, see moe_gemm.h: 4-bit weights of a
// codebook (ggml's IQ4_NL, IQ4_XS and MXFP4). x and out are T, sums f32. W: codes u8 [experts, n, k / 2], scales
// f32 [experts, n, k / 32], the codebook's 16 i8 in b0 to b3 (see CodebookWeights); k a multiple of 32.
//
// Operations: 2 pairs n k. Bytes of W: 0.625 n k for each expert with pairs, once a tile. Bound: memory for a
// decode (m1 to m16), matrix throughput for a prefill. CPU reference: `expert_linear` in
// src/backend/cpu/moe/mod.rs.
#include "moe_gemm.h"

#define MOE_GEMM_CODEBOOK(T)                                                                          \
  MOE_GEMM(T, moe_gemm_codebook_##T, CodebookWeights(codes, scales, Words<4>{{b0, b1, b2, b3}}, k), \
           const u8* codes, const float* scales, u32 b0, u32 b1, u32 b2, u32 b3)
MOE_GEMM_CODEBOOK(bf16)
MOE_GEMM_CODEBOOK(f16)
