// Parts of sample.hip: sums, scans and a sort over the block.
#pragma once
#include "order.h"

static constexpr u32 THREADS = 1024;
static constexpr u32 WAVES = THREADS / WAVE;

DEV u64 shuffle(u64 v, u32 from) { return (u64)shuffle((u32)(v >> 32), from) << 32 | shuffle((u32)v, from); }

// Integers, so that no order of summation matters. `scratch` holds WAVES values.
DEV u64 block_total(u64 v, u64* scratch) {
  for (u32 m = WAVE / 2; m; m /= 2) v += shuffle(v, lane() ^ m);
  barrier();
  if (lane() == 0) scratch[wave()] = v;
  barrier();
  u64 sum = 0;
  for (u32 w = 0; w < WAVES; w++) sum += scratch[w];
  return sum;
}

// The sum over this work-item and those before it.
DEV u64 block_scan(u64 v, u64* scratch) {
  for (u32 m = 1; m < WAVE; m *= 2) {
    u64 other = shuffle(v, lane() - m);
    if (lane() >= m) v += other;
  }
  barrier();
  if (lane() == WAVE - 1) scratch[wave()] = v;
  barrier();
  for (u32 w = 0; w < wave(); w++) v += scratch[w];
  return v;
}

// Ascending, n a power of two (bitonic sort, Batcher 1968). Ends with a barrier.
DEV void block_sort(u64* list, u32 n) {
  for (u32 run = 2; run <= n; run *= 2) {
    for (u32 apart = run / 2; apart; apart /= 2) {
      for (u32 t = tid(); t < n / 2; t += THREADS) {
        u32 i = 2 * t - (t & (apart - 1));
        u64 a = list[i], b = list[i + apart];
        if ((a > b) == !(i & run)) list[i] = b, list[i + apart] = a;
      }
      barrier();
    }
  }
}

// f(value, index) for the values begin .. end of a row, which is readable up to a multiple of 4.
template <class F>
DEV void for_each(const float* __restrict__ row, u32 begin, u32 end, const F& f) {
  // Loads in flight.
  constexpr u32 HELD = 4;
  for (u32 base = begin / 4 * 4; base < end; base += HELD * THREADS * 4) {
    f32x4 held[HELD];
#pragma unroll
    for (u32 h = 0; h < HELD; h++) {
      u32 first = base + (h * THREADS + tid()) * 4;
      if (first < end) held[h] = *(const f32x4*)(row + first);
    }
#pragma unroll
    for (u32 h = 0; h < HELD; h++) {
      u32 first = base + (h * THREADS + tid()) * 4;
      for (u32 i = 0; i < 4; i++)
        if (first + i >= begin && first + i < end) f(held[h][i], first + i);
    }
  }
}
