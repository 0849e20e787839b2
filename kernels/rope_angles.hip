// Rotary angles of a step (Su et al. 2021), used by all its layers: out[r] = cosines, then sines,
// of positions[r] * inv_freq, all times scale.
//
// inv_freq [pairs] f32, positions [rows] u32, out [rows, 2 pairs] f32. One block per row. Bytes
// moved: 8 per pair. Bound: launch latency. CPU reference: src/backend/cpu/rope.rs; as there the
// angle is rounded to f32.
//
// The devices' own sine is only good near 0, so the angle is first reduced to [-pi/4, pi/4]: three
// f32 parts of pi / 2 subtracted by fma (Cody & Waite 1980), exact to f32 for angles up to 2^22.
// The polynomials are those of Cephes (Moshier), good to 1 ulp there.
#include "port.h"

static constexpr u32 THREADS = 64;

DEV void sin_cos(float x, float& sine, float& cosine) {
  float turns = __builtin_rintf(x * 0.636619772f);
  float r = __builtin_fmaf(turns, -1.57079637f, x);
  r = __builtin_fmaf(turns, 4.37113883e-8f, r);
  r = __builtin_fmaf(turns, 1.71512451e-15f, r);
  float r2 = r * r;
  float s = r + r * r2 * (-1.6666654611e-1f + r2 * (8.3321608736e-3f - r2 * 1.9515295891e-4f));
  float c = 1.0f - 0.5f * r2 + r2 * r2 * (4.166664568298827e-2f + r2 * (-1.388731625493765e-3f + r2 * 2.443315711809948e-5f));
  i32 quarter = (i32)turns;
  float odd_sine = quarter & 1 ? c : s, odd_cosine = quarter & 1 ? s : c;
  sine = quarter & 2 ? -odd_sine : odd_sine;
  cosine = (quarter + 1) & 2 ? -odd_cosine : odd_cosine;
}

KERNEL(rope_angles, THREADS, 4, const float* __restrict__ inv_freq, const u32* __restrict__ positions,
       float* __restrict__ out, u32 pairs, float scale) {
  u32 row = block_x();
  float position = (float)positions[row];
  float* cosines = out + (u64)row * 2 * pairs;
  for (u32 i = tid(); i < pairs; i += THREADS) {
    float sine, cosine;
    sin_cos(position * inv_freq[i], sine, cosine);
    cosines[i] = cosine * scale;
    cosines[pairs + i] = sine * scale;
  }
}
