// A rank's columns in their place among all ranks' columns, zeros elsewhere: the sum over the ranks
// is the whole matrix.
//
// x [rows, columns] f32, out [rows, stride] f32; columns first .. first + columns of out are x.
// Grid: (rows, stride / 2048 rounded up). Bytes moved: 4 stride + 4 columns per row. Bound: memory.
// CPU reference: all_gather in src/backend/cpu/group.rs.
#include "port.h"

static constexpr u32 THREADS = 256;
// Values of a work-item.
static constexpr u32 HELD = 8;

KERNEL(place_columns, THREADS, 4, const float* x, float* out, u32 columns, u32 first, u32 stride) {
  const float* from = x + (u64)block_x() * columns;
  float* to = out + (u64)block_x() * stride;
  float held[HELD];
#pragma unroll
  for (u32 h = 0; h < HELD; h++) {
    u32 at = (block_y() * HELD + h) * THREADS + tid();
    // Wraps around below `first`.
    held[h] = at - first < columns ? from[at - first] : 0.0f;
  }
#pragma unroll
  for (u32 h = 0; h < HELD; h++) {
    u32 at = (block_y() * HELD + h) * THREADS + tid();
    if (at < stride) to[at] = held[h];
  }
}
