// out = activation(gate) * up, where a row of gate_up is gate, then up (Shazeer 2020). silu_mul has
// silu(x) = x / (1 + e^-x); gelu_mul has GELU by tanh, 0.5 x (1 + tanh(u)) with u = sqrt(2 / pi)
// (x + 0.044715 x^3), which is x / (1 + e^-2u).
//
// gate_up [rows, 2 columns] T, out [rows, columns] T; columns a multiple of 8. Grid: (rows,
// columns / VALUES rounded up). Bytes moved per value of out: 6. Bound: memory.
// CPU reference: src/backend/cpu/elementwise.rs.
#include "port.h"

static constexpr u32 THREADS = 256;
// Columns of a block: 8 a work-item.
static constexpr u32 VALUES = 8 * THREADS;

// What x is divided by 1 + e^ of.
DEV float silu(float x) { return -x; }
DEV float gelu(float x) { return -1.5957691216057308f * (x + 0.044715f * x * x * x); }

template <class T, float exponent(float)>
DEV void gated(const T* __restrict__ gate_up, T* __restrict__ out, u32 columns) {
  u32 column = block_y() * VALUES + tid() * 8;
  if (column >= columns) return;
  const T* row = gate_up + (u64)block_x() * 2 * columns;
  Eight<T> gate = load8(row + column), up = load8(row + columns + column), y;
  for (u32 i = 0; i < 8; i++) {
    float x = to_float(gate.v[i]);
    y.v[i] = from_float<T>(x / (1.0f + fast_exp(exponent(x))) * to_float(up.v[i]));
  }
  store8(out + (u64)block_x() * columns + column, y);
}

#define GATED(T)                                                                    \
  KERNEL(silu_mul_##T, THREADS, 4, const T* gate_up, T* out, u32 columns) {         \
    gated<T, silu>(gate_up, out, columns);                                          \
  }                                                                                 \
  KERNEL(gelu_mul_##T, THREADS, 4, const T* gate_up, T* out, u32 columns) {         \
    gated<T, gelu>(gate_up, out, columns);                                          \
  }
GATED(bf16)
GATED(f16)
