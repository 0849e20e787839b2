// out[i] = x[row of pair i] W[expert of pair i]^T over tiles of pairs, see moe_gemm.h: FP8 weights. x and out
// are T, sums f32. W: codes e4m3 [experts, n, k], scales f32 [experts, n, ceil(k / 128)]; k a multiple of 16.
//
// Operations: 2 pairs n k. Bytes of W: 1.03 n k for each expert with pairs, once a tile. Bound: memory for a
// decode (m1 to m16), matrix throughput for a prefill. CPU reference: `expert_linear` in
// src/backend/cpu/moe/mod.rs.
#include "moe_gemm.h"

#define MOE_GEMM_FP8(T) \
  MOE_GEMM(T, moe_gemm_fp8_##T, Fp8Weights(codes, scales, k), const u8* codes, const float* scales)
MOE_GEMM_FP8(bf16)
MOE_GEMM_FP8(f16)
