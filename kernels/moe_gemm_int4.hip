// out[i] = x[row of pair i] W[expert of pair i]^T over tiles of pairs, see moe_gemm.h: 4-bit weights with a
// scale and a minimum per group (AWQ, GPTQ, ggml's Q4_0 and Q4_1). x and out are T, sums f32. W: codes u8
// [experts, n, k / 2], scales f16 [experts, n, k / group, 2] (see Int4Weights); group 32, 64 or 128; k a
// multiple of group.
//
// Operations: 2 pairs n k. Bytes of W: (0.5 + 4 / group) n k for each expert with pairs, once a tile. Bound:
// memory for a decode (m1 to m16), matrix throughput for a prefill. CPU reference: `expert_linear` in
// src/backend/cpu/moe/mod.rs.
#include "moe_gemm.h"

#define MOE_GEMM_INT4(T) \
  MOE_GEMM(T, moe_gemm_int4_##T, Int4Weights(codes, scales, k, group), const u8* codes, const u32* scales, u32 group)
MOE_GEMM_INT4(bf16)
MOE_GEMM_INT4(f16)
