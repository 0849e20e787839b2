// Copies KV blocks in all layers: to[layer][target] = from[layer][source] for each pair of blocks.
//
// pairs [count, 2] u32: source, target; a pair whose target is NONE is padding. from and to may be
// one cache, when no block is both a source and a target, and no target occurs twice. Sizes are in
// units of 16 bytes: a layer's part of a block is `block_units` long and contiguous, block b of
// layer l lies at l * layer_units + b * block_units. A cache with keys and values apart, or one
// that has all layers of a block together (layers 1), is described in the same terms.
// Grid: (count, layers, block_units / UNITS rounded up). Bytes moved per unit: 32. Bound: memory.
// CPU reference: copy_blocks in src/backend/cpu/kv.rs.
#include "port.h"

static constexpr u32 THREADS = 256;
// Units of a block of work-items.
static constexpr u32 UNITS = 4 * THREADS;
static constexpr u32 NONE = ~0u;

KERNEL(block_copy, THREADS, 4, const u32* pairs, const u32x4* from, u32x4* to, u32 block_units, u32 layer_units) {
  u32 source = pairs[2 * block_x()], target = pairs[2 * block_x() + 1];
  if (target == NONE) return;
  u64 layer = (u64)block_y() * layer_units;
  from += layer + (u64)source * block_units;
  to += layer + (u64)target * block_units;
  u32x4 held[UNITS / THREADS];
  u32 first = block_z() * UNITS + tid();
#pragma unroll
  for (u32 h = 0; h < UNITS / THREADS; h++)
    if (first + h * THREADS < block_units) held[h] = from[first + h * THREADS];
#pragma unroll
  for (u32 h = 0; h < UNITS / THREADS; h++)
    if (first + h * THREADS < block_units) to[first + h * THREADS] = held[h];
}
