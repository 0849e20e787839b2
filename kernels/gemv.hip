// out [m, n] = x [m, k] W [n, k]^T (+ bias [n] f32) for m <= 16: unquantised weights. x and W are T, out is T or
// f32, sums are f32; k a multiple of 8, n any.
//
// Bytes: 2 n k, each read once. Bound: memory. CPU reference: src/backend/cpu/matmul/linear.rs.
#include "gemv.h"

#define GEMV(T)                                                            \
  GEMV_SIZES(T, T, gemv_##T, HalfWeights<T>(weights, k), const T* weights) \
  GEMV_SIZES(T, float, gemv_##T##_to_f32, HalfWeights<T>(weights, k), const T* weights)
GEMV(bf16)
GEMV(f16)
