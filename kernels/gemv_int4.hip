// out [m, n] = x [m, k] W [n, k]^T (+ bias [n] f32) for m <= 16: 4-bit weights with a scale and a minimum per group
// (AWQ, GPTQ, ggml's Q4_0 and Q4_1).
// x is T, out is T or f32, sums are f32.
// W: codes u8 [n, k / 2], scales f16 [n, k / group, 2] (scale and minimum, see Int4Weights); group 32, 64
// or 128; k a multiple of group; n any.
//
// Bytes: (0.5 + 4 / group) n k, each read once. Bound: memory.
// CPU reference: src/checkpoint/blocks.rs, src/backend/cpu/matmul/kernel.rs.
#include "gemv.h"

#define GEMV_INT4(T)                                                                   \
  GEMV_SIZES_4(T, T, gemv_int4_##T, Int4Weights(codes, scales, k, group),              \
               const u8* codes, const u32* scales, u32 group)                          \
  GEMV_SIZES_4(T, float, gemv_int4_##T##_to_f32, Int4Weights(codes, scales, k, group), \
               const u8* codes, const u32* scales, u32 group)
GEMV_INT4(bf16)
GEMV_INT4(f16)
