// Floats as integers of the same order, for selections.
#pragma once
#include "port.h"

// Grows as x does; equal for 0 and -0; above all numbers for NaN; never 0.
DEV u32 order(float x) {
  if (x != x) return ~0u;
  u32 bits = __builtin_bit_cast(u32, x + 0.0f);
  return bits >> 31 ? ~bits : bits | 1u << 31;
}

// The number that has this order.
DEV float ordered(u32 order) { return __builtin_bit_cast(float, order >> 31 ? order & ~(1u << 31) : ~order); }
