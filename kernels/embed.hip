// out[r] = scale * table[tokens[r] - first], in f32; zeros for tokens that the table, a shard of
// the vocabulary, does not hold.
//
// tokens [rows] u32; table [held, columns] T, or Q8_0: values [held, columns] i8 and scales
// [held, columns / 32] f16; out [rows, columns] f32. columns a multiple of 8, of Q8_0 of 32.
// Grid: (rows, columns / VALUES rounded up). Bytes moved per value: 2 (T) or 1 (Q8_0), and 4.
// Bound: memory. CPU reference: src/backend/cpu/elementwise.rs.
#include "port.h"

static constexpr u32 THREADS = 256;
// Columns of a block: 8 a work-item.
static constexpr u32 VALUES = 8 * THREADS;

// The values of a work-item start here; false when it has none.
DEV bool mine(u32 columns, u32& column) {
  column = block_y() * VALUES + tid() * 8;
  return column < columns;
}

DEV void store(float* __restrict__ out, u32 columns, u32 column, const float (&x)[8]) {
  float* to = out + (u64)block_x() * columns + column;
  *(f32x4*)to = f32x4{x[0], x[1], x[2], x[3]};
  *(f32x4*)(to + 4) = f32x4{x[4], x[5], x[6], x[7]};
}

template <class T>
DEV void embed(const u32* __restrict__ tokens, const T* __restrict__ table, float* __restrict__ out, u32 columns,
               u32 first, u32 held, float scale) {
  u32 column;
  if (!mine(columns, column)) return;
  // Below `first` this wraps to an index that no table has.
  u32 index = tokens[block_x()] - first;
  float x[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  if (index < held) {
    Eight<T> from = load8(table + (u64)index * columns + column);
    for (u32 i = 0; i < 8; i++) x[i] = scale * to_float(from.v[i]);
  }
  store(out, columns, column, x);
}

#define EMBED(T)                                                                                           \
  KERNEL(embed_##T, THREADS, 4, const u32* tokens, const T* table, float* out, u32 columns, u32 first, u32 held, \
         float scale) {                                                                                    \
    embed<T>(tokens, table, out, columns, first, held, scale);                                             \
  }
EMBED(bf16)
EMBED(f16)

KERNEL(embed_q8_0, THREADS, 4, const u32* tokens, const i8* values, const f16* scales, float* out, u32 columns,
       u32 first, u32 held, float scale) {
  u32 column;
  if (!mine(columns, column)) return;
  u32 index = tokens[block_x()] - first;
  float x[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  if (index < held) {
    u64 at = (u64)index * columns + column;
    u32x2 from = *(const u32x2*)(values + at);
    float unit = to_float(scales[at / 32]);
    // The value as it is stored, then scaled: in the CPU backend's order.
    for (u32 i = 0; i < 8; i++) x[i] = scale * (unit * (float)(i8)(from[i / 4] >> (i % 4 * 8)));
  }
  store(out, columns, column, x);
}
