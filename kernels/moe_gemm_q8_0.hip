// out[i] = x[row of pair i] W[expert of pair i]^T over tiles of pairs, see moe_gemm.h: ggml's Q8_0 weights. x
// and out are T, sums f32. W: codes i8 [experts, n, k], scales f16 [experts, n, k / 32]; k a multiple of 32.
//
// Operations: 2 pairs n k. Bytes of W: 1.06 n k for each expert with pairs, once a tile. Bound: memory for a
// decode (m1 to m16), matrix throughput for a prefill. CPU reference: `expert_linear` in
// src/backend/cpu/moe/mod.rs.
#include "moe_gemm.h"

#define MOE_GEMM_Q8_0(T) \
  MOE_GEMM(T, moe_gemm_q8_0_##T, Q8_0Weights(codes, scales, k), const u8* codes, const f16* scales)
MOE_GEMM_Q8_0(bf16)
MOE_GEMM_Q8_0(f16)
