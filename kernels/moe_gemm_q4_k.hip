// out[i] = x[row of pair i] W[expert of pair i]^T over tiles of pairs, see moe_gemm.h: ggml's Q4_K weights. x
// and out are T, sums f32. W: blocks u8 [experts, n, k / 256, 144] as in a file; k a multiple of 256.
//
// Operations: 2 pairs n k. Bytes of W: 0.56 n k for each expert with pairs, once a tile. Bound: memory for a
// decode (m1 to m16), matrix throughput for a prefill. CPU reference: `expert_linear` in
// src/backend/cpu/moe/mod.rs.
#include "moe_gemm.h"

#define MOE_GEMM_Q4_K(T) \
  MOE_GEMM(T, moe_gemm_q4_k_##T, Q4_KWeights(blocks, k), const u8* blocks)
MOE_GEMM_Q4_K(bf16)
MOE_GEMM_Q4_K(f16)
