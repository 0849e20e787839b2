// out[r] = scale * table[tokens[r] - first], in f32; zeros for tokens that the table, a shard of
// the vocabulary, does not hold.
//
// tokens [rows] u32; table [held, k] in any format of weights.h; out [rows, k] f32. k a multiple of 8 and
// of the format's blocks. Grid: (rows, k / VALUES rounded up). Bytes moved per value: the format's, and 4.
// Bound: memory. CPU reference: src/backend/cpu/elementwise.rs.
#include "weights.h"

static constexpr u32 THREADS = 256;
// Columns of a block: 8 a work-item.
static constexpr u32 VALUES = 8 * THREADS;

template <class R>
DEV void embed(const u32* __restrict__ tokens, const R& table, float* __restrict__ out, u32 k, u32 first, u32 held,
               float scale) {
  u32 column = block_y() * VALUES + tid() * 8;
  if (column >= k) return;
  // Below `first` this wraps to an index that no table has.
  u32 index = tokens[block_x()] - first;
  f32x2 x[4] = {};
  if (index < held) {
    Octet from = R::octet(table.template load<1>(index, column), 0);
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
      x[i] = from.code[i];
      if (R::SHIFTED) x[i] = x[i] * from.scale + from.minimum;
      else if (R::SCALED) x[i] *= from.scale;
      // The value as it is stored, then scaled: in the CPU backend's order.
      x[i] *= scale;
    }
  }
  float* to = out + (u64)block_x() * k + column;
  *(f32x4*)to = f32x4{x[0][0], x[0][1], x[1][0], x[1][1]};
  *(f32x4*)(to + 4) = f32x4{x[2][0], x[2][1], x[3][0], x[3][1]};
}

// EMBED(name, WEIGHTS, parameters...): an entry point over the reader WEIGHTS, an expression of the parameters and k.
#define EMBED(name, WEIGHTS, ...)                                                                            \
  KERNEL(embed_##name, THREADS, 4, const u32* tokens, __VA_ARGS__, float* out, u32 k, u32 first, u32 held,     \
         float scale) {                                                                                        \
    embed(tokens, WEIGHTS, out, k, first, held, scale);                                                        \
  }
EMBED(bf16, HalfWeights<bf16>(values, k), const bf16* values)
EMBED(f16, HalfWeights<f16>(values, k), const f16* values)
EMBED(q8_0, Q8_0Weights(codes, scales, k), const u8* codes, const f16* scales)
EMBED(int4, Int4Weights(codes, scales, k, group), const u8* codes, const u32* scales, u32 group)
EMBED(q4_k, Q4_KWeights(blocks, k), const u8* blocks)
EMBED(q6_k, Q6_KWeights(low, high, scales, d, k), const u8* low, const u8* high, const u8* scales, const f16* d)
EMBED(fp8, Fp8Weights(codes, scales, k), const u8* codes, const float* scales)
EMBED(codebook, CodebookWeights(codes, scales, Words<4>{{b0, b1, b2, b3}}, k), const u8* codes, const float* scales,
      u32 b0, u32 b1, u32 b2, u32 b3)
