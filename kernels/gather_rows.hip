// out[i] = x[rows[i]]: the rows of a step whose logits are wanted.
//
// x [any, columns] and out [count, columns] of any type, copied 16 bytes at a time: `units` is a
// row's length in 16 bytes. rows [count] u32; where it is NONE, a padding row, out stays as it is.
// Grid: (count, units / UNITS rounded up). Bytes moved per unit: 32. Bound: memory.
// CPU reference: src/backend/cpu/elementwise.rs.
#include "port.h"

static constexpr u32 THREADS = 256;
// Units of a block.
static constexpr u32 UNITS = 2 * THREADS;
static constexpr u32 NONE = ~0u;

KERNEL(gather_rows, THREADS, 4, const u32x4* x, const u32* rows, u32x4* out, u32 units) {
  u32 row = rows[block_x()];
  if (row == NONE) return;
  const u32x4* from = x + (u64)row * units;
  u32x4* to = out + (u64)block_x() * units;
  u32 a = block_y() * UNITS + tid(), b = a + THREADS;
  u32x4 first = {}, second = {};
  if (a < units) first = from[a];
  if (b < units) second = from[b];
  if (a < units) to[a] = first;
  if (b < units) to[b] = second;
}
