// The first largest logit of each slice of a row, and whether one is NaN or +infinity: what
// sample.hip starts from.
//
// logits [rows, stride] f32, stride a multiple of 4; best [rows, slices] of u32x4: the largest
// logit's bits, its token, whether the slice is broken, 0; slices = vocab / SLICE rounded up.
// Grid: (slices, rows). Bytes moved per value: 4. Bound: memory.
// CPU reference: argmax in src/engine/sampler/math.rs.
#include "port.h"

static constexpr u32 THREADS = 256;
// Groups of 4 values of a work-item.
static constexpr u32 HELD = 4;
static constexpr u32 SLICE = HELD * THREADS * 4;

struct Best {
  float logit;
  u32 token, broken;
};

DEV void take(Best& best, float logit, u32 token) {
  if (logit > best.logit || (logit == best.logit && token < best.token)) best.logit = logit, best.token = token;
}

KERNEL(argmax, THREADS, 4, const float* logits, u32x4* best, u32 vocab, u32 stride, u32 slices) {
  LDS float logit_of[THREADS / 32];
  LDS u32 token_of[THREADS / 32];
  LDS u32 broken_of[THREADS / 32];
  const float* row = logits + (u64)block_y() * stride;
  f32x4 held[HELD];
  Best mine = {-__builtin_inff(), ~0u, 0};
#pragma unroll
  for (u32 h = 0; h < HELD; h++) {
    u32 first = block_x() * SLICE + (h * THREADS + tid()) * 4;
    held[h] = first < vocab ? *(const f32x4*)(row + first) : f32x4{mine.logit, mine.logit, mine.logit, mine.logit};
  }
#pragma unroll
  for (u32 h = 0; h < HELD; h++) {
    u32 first = block_x() * SLICE + (h * THREADS + tid()) * 4;
    for (u32 i = 0; i < 4; i++) {
      if (first + i >= vocab) break;
      take(mine, held[h][i], first + i);
      // Neither NaN nor +infinity.
      if (!(held[h][i] < __builtin_inff())) mine.broken = 1;
    }
  }
  for (u32 m = 16; m; m /= 2) {
    mine.broken |= shuffle_xor(mine.broken, m);
    float logit = shuffle_xor(mine.logit, m);
    take(mine, logit, shuffle_xor(mine.token, m));
  }
  if (tid() % 32 == 0) {
    u32 at = tid() / 32;
    logit_of[at] = mine.logit, token_of[at] = mine.token, broken_of[at] = mine.broken;
  }
  barrier();
  if (tid()) return;
  for (u32 i = 1; i < THREADS / 32; i++) {
    take(mine, logit_of[i], token_of[i]);
    mine.broken |= broken_of[i];
  }
  best[(u64)block_y() * slices + block_x()] =
      u32x4{__builtin_bit_cast(u32, mine.logit), mine.token, mine.broken, 0};
}
