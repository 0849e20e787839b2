// out[i] = x[row of pair i] W[expert of pair i]^T over tiles of pairs, see moe_gemm.h: ggml's Q6_K weights. x
// and out are T, sums f32. W: low u8 [experts, n, k / 2], high u8 [experts, n, k / 4], scales i8 [experts, n,
// k / 16], d f16 [experts, n, k / 256] (see Q6_KWeights); k a multiple of 256.
//
// Operations: 2 pairs n k. Bytes of W: 0.82 n k for each expert with pairs, once a tile. Bound: memory for a
// decode (m1 to m16), matrix throughput for a prefill. CPU reference: `expert_linear` in
// src/backend/cpu/moe/mod.rs.
#include "moe_gemm.h"

#define MOE_GEMM_Q6_K(T)                                               \
  MOE_GEMM(T, moe_gemm_q6_k_##T, Q6_KWeights(low, high, scales, d, k), \
             const u8* low, const u8* high, const u8* scales, const f16* d)
MOE_GEMM_Q6_K(bf16)
MOE_GEMM_Q6_K(f16)
