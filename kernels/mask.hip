// Leaves the tokens that a grammar allows: the logits of all others become -infinity, before anything else
// adjusts them.
//
// logits [rows, stride] f32, stride a multiple of 4; outputs [masked] u32, ascending: the row of mask i is
// outputs[i] - first; masks [masked, words] u32: bit t % 32 of word t / 32 is set where token t may come, words =
// vocab / 32 rounded up. Rows without a mask are not touched. NaN and +infinity stay: nothing hides a broken model.
// Grid: (slices of SLICE values, masked). Bytes moved per value: 8. Bound: memory.
// CPU reference: Sampler::adjust in src/engine/sampler.rs.
#include "port.h"

static constexpr u32 THREADS = 256;
// Groups of 4 values of a work-item.
static constexpr u32 HELD = 4;
static constexpr u32 SLICE = HELD * THREADS * 4;

KERNEL(mask, THREADS, 4, float* logits, const u32* outputs, const u32* masks, u32 first, u32 vocab, u32 stride,
       u32 words) {
  float* row = logits + (u64)(outputs[block_y()] - first) * stride;
  const u32* allowed = masks + (u64)block_y() * words;
#pragma unroll
  for (u32 h = 0; h < HELD; h++) {
    // Eight work-items share a word.
    u32 at = block_x() * SLICE + (h * THREADS + tid()) * 4;
    if (at >= vocab) return;
    u32 bits = allowed[at / 32] >> at % 32 & 15;
    if (bits == 15) continue;
    f32x4 x = *(const f32x4*)(row + at);
    for (u32 i = 0; i < 4; i++)
      if (!(bits >> i & 1) && x[i] < __builtin_inff()) x[i] = -__builtin_inff();
    *(f32x4*)(row + at) = x;
  }
}
