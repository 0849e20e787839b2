// out[i] = x[row of pair i] W[expert of pair i]^T over tiles of pairs, see moe_gemm.h: unquantised weights. x
// and out are T, sums f32. W: values T [experts, n, k]; k a multiple of 8.
//
// Operations: 2 pairs n k. Bytes of W: 2 n k for each expert with pairs, once a tile. Bound: memory for a
// decode (m1 to m16), matrix throughput for a prefill. CPU reference: `expert_linear` in
// src/backend/cpu/moe/mod.rs.
#include "moe_gemm.h"

#define MOE_GEMM_HALF(T) \
  MOE_GEMM(T, moe_gemm_##T, HalfWeights<T>(weights, k), const T* weights)
MOE_GEMM_HALF(bf16)
MOE_GEMM_HALF(f16)
