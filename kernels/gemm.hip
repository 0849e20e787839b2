// out [m, n] = x [m, k] W [n, k]^T (+ bias [n] f32): unquantised weights, for m above gemv's. x and W are T,
// out is T or f32, sums are f32; k a multiple of 8, n and m any.
//
// Operations: 2 m n k; bytes from memory at least 2 (m k + n k + m n), and each tile row of blocks reads W again
// from cache. Bound: matrix throughput. CPU reference: src/backend/cpu/matmul/linear.rs.
#include "gemm.h"

#define GEMM(T)                                                              \
  GEMM_TILES(T, T, gemm_##T, HalfWeights<T>(weights, k), const T* weights) \
  GEMM_TILES(T, float, gemm_##T##_to_f32, HalfWeights<T>(weights, k), const T* weights)
GEMM(bf16)
GEMM(f16)
