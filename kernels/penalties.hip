// Adjusts each row's logits in place, before a token is chosen: logit bias and bans, then
// repetition (Keskar et al. 2019), frequency and presence penalties.
//
// logits [rows, stride] f32. The entries of row r are spans[r] .. spans[r + 1], each 16 bytes:
// token, count in the output, whether it is in the prompt or the output, bias f32 (-infinity: a
// ban). No token occurs twice in a row; tokens from `vocab` on are passed over. penalties
// [rows, 4] f32: repetition, frequency, presence, 0. Padding rows have no entries. A logit that is
// not finite stays as it is: nothing lifts a ban, and nothing hides a broken model.
// Grid: rows. Bytes moved per entry: 24, scattered. Bound: latency.
// CPU reference: Sampler::adjust in src/engine/sampler.rs.
#include "port.h"

static constexpr u32 THREADS = 256;
static constexpr float LARGEST = 3.40282347e38f;

DEV bool finite(float x) { return x - x == 0.0f; }

KERNEL(penalties, THREADS, 4, float* logits, const u32x4* entries, const u32* spans, const f32x4* penalties,
       u32 vocab, u32 stride) {
  u32 row = block_x();
  f32x4 penalty = penalties[row];
  for (u32 at = spans[row] + tid(); at < spans[row + 1]; at += THREADS) {
    u32x4 entry = entries[at];
    if (entry[0] >= vocab) continue;
    float* logit = logits + (u64)row * stride + entry[0];
    // A copy first: clang 19 takes the first element for any element that is cast in place.
    u32 bias = entry[3];
    float x = *logit + __builtin_bit_cast(float, bias);
    if (entry[2] && finite(x)) {
      x = x > 0.0f ? x / penalty[0] : x * penalty[0];
      if (entry[1]) x -= penalty[1] * (float)entry[1] + penalty[2];
      // A tiny penalty must not overflow into what looks like a broken model.
      x = maximum(minimum(x, LARGEST), -LARGEST);
    }
    *logit = x;
  }
}
