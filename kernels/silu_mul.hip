// out = silu(gate) * up, where silu(x) = x / (1 + e^-x) and a row of gate_up is gate, then up
// (SwiGLU, Shazeer 2020).
//
// gate_up [rows, 2 columns] T, out [rows, columns] T; columns a multiple of 8. Grid: (rows,
// columns / VALUES rounded up). Bytes moved per value of out: 6. Bound: memory.
// CPU reference: src/backend/cpu/elementwise.rs.
#include "port.h"

static constexpr u32 THREADS = 256;
// Columns of a block: 8 a work-item.
static constexpr u32 VALUES = 8 * THREADS;

template <class T>
DEV void silu_mul(const T* __restrict__ gate_up, T* __restrict__ out, u32 columns) {
  u32 column = block_y() * VALUES + tid() * 8;
  if (column >= columns) return;
  const T* row = gate_up + (u64)block_x() * 2 * columns;
  Eight<T> gate = load8(row + column), up = load8(row + columns + column), y;
  for (u32 i = 0; i < 8; i++) {
    float x = to_float(gate.v[i]);
    y.v[i] = from_float<T>(x / (1.0f + fast_exp(-x)) * to_float(up.v[i]));
  }
  store8(out + (u64)block_x() * columns + column, y);
}

#define SILU_MUL(T) \
  KERNEL(silu_mul_##T, THREADS, 4, const T* gate_up, T* out, u32 columns) { silu_mul<T>(gate_up, out, columns); }
SILU_MUL(bf16)
SILU_MUL(f16)
