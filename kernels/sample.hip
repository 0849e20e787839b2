// The next token of each row of logits: temperature, top_k, top_p (Holtzman et al. 2020), min_p,
// then the inverse CDF over the kept tokens in order of their ids, at a uniform number that the
// host draws; at temperature 0 the first largest logit.
//
// One block per row, after argmax.hip. A token's mass is e^-z, z = (max - logit) / temperature, as
// an integer in units of 2^-44: sums are exact, whatever their order. Tokens are ranked by an
// integer, the logit's order and then the id. No row is sorted: a histogram over z (count and mass
// of tokens per 1/32, up to 32, where the unit ends) tells in which bucket a cut lies. When all
// that comes before the bucket's end fits in LDS, as it nearly always does, it is listed and
// sorted there, and the row is not read again; otherwise the bucket is narrowed, by ten bits of
// the rank a pass, until its tokens fit. The draw is found by halving the range of ids.
//
// logits [rows, stride] f32, stride a multiple of 4; best as argmax.hip writes it; params [rows],
// see Params; rows [1] u32, the rows that count; tokens [rows] u32, BROKEN where a logit is NaN or
// +infinity or all are -infinity. vocab at most 2^18. Grid: padded rows.
// Bytes moved per value: 8 with a cut (read twice), more when the list overflows; a draw alone 8.
// Bound: latency of one compute unit's reads from L2.
// CPU reference: src/engine/sampler.rs and src/engine/sampler/math.rs.
#include "sample.h"

static constexpr u32 BROKEN = ~0u;
static constexpr u32 NONE = ~0u;
static constexpr u32 BUCKETS = THREADS;
static constexpr float Z_MAX = 32;  // what is beyond has a mass below the unit
static constexpr u32 DIGIT_BITS = 10;
static constexpr u32 ID_BITS = 18;
static constexpr u32 RANK_BITS = 32 + ID_BITS;
// Two a work-item.
static constexpr u32 LISTED = 2 * THREADS;

struct Params {
  double draw;   // in [0, 1)
  float scale;   // 1 / temperature; 0: the first largest logit
  u32 top_k;     // 0: all
  float top_p;   // 1: all
  float min_p;
  u32 unused[2];
};

struct Row {
  const float* logits;
  u32 vocab;
  float max, scale;
};

// Where a cumulated count or mass reaches what is wanted.
struct Border {
  u32 bucket;  // NONE: nowhere
  u32 count_before, count;
  u64 mass_before;
};

// A block's LDS.
struct Shared {
  u64 masses[BUCKETS];
  u32 counts[BUCKETS];
  u64 list[LISTED];  // ranks
  u64 scratch[WAVES];
  Border border;
  u32 listed;
  u64 last, mass;  // of a pick
};

// The tokens of a row up to and including the rank `last`.
struct Kept {
  u64 last;   // ~0: all
  u64 mass;   // of all of them; 0: not known yet
  u32 listed; // not 0: they are among so many in the list
};

DEV Kept all_tokens() {
  Kept kept;
  kept.last = ~0ull, kept.mass = 0, kept.listed = 0;
  return kept;
}

DEV u64 rank_of(float logit, u32 id) { return (u64)~order(logit) << ID_BITS | id; }
DEV float logit_of(u64 rank) { return ordered(~(u32)(rank >> ID_BITS)); }

DEV float z_of(const Row& row, float logit) { return (row.max - logit) * row.scale; }
DEV u64 mass_of(float z) { return z < Z_MAX ? (u64)(fast_exp(-z) * 17592186044416.0f) : 0; }

// Tokens under a histogram: level 0 has all up to Z_MAX; deeper levels one bucket of z, and of it the
// ranks that begin with `prefix`.
struct Part {
  u32 level, z_bucket;
  u64 prefix;
};

DEV bool digit_of(const Part& part, float z, float logit, u32 id, u32& digit) {
  if (!(z < Z_MAX)) return false;
  digit = (u32)(z * (BUCKETS / Z_MAX));
  if (part.level == 0) return true;
  u64 rank = rank_of(logit, id) >> (RANK_BITS - DIGIT_BITS * part.level);
  bool inside = digit == part.z_bucket && rank >> DIGIT_BITS == part.prefix;
  digit = (u32)rank % BUCKETS;
  return inside;
}

DEV void histogram(Shared& shared, const Row& row, const Part& part) {
  // Each work-item has read its own of the last time.
  shared.counts[tid()] = 0;
  shared.masses[tid()] = 0;
  barrier();
  for_each(row.logits, 0, row.vocab, [&](float logit, u32 id) {
    float z = z_of(row, logit);
    u32 digit;
    if (!digit_of(part, z, logit, id, digit)) return;
    lds_add(&shared.counts[digit], 1u);
    lds_add(&shared.masses[digit], mass_of(z));
  });
  barrier();
}

// What a cut wants: a number of tokens, or a part of the mass.
struct Wanted {
  u32 count;    // 0: by mass
  double part;
};

// A set of tokens has reached top_p when it misses it by less than this part of it.
DEV u64 mass_wanted(const Wanted& wanted, u64 mass) {
  u64 least = (u64)((double)mass * (wanted.part * (1.0 - 1e-6)));
  return least ? least : 1;
}

// In the sorted list: the first rank up to which the list has `left`, and the mass up to there.
DEV void pick(Shared& shared, const Row& row, u32 listed, bool by_count, u64 left) {
  u64 mass[2];
  for (u32 i = 0; i < 2; i++) {
    u32 at = 2 * tid() + i;
    mass[i] = at < listed ? mass_of(z_of(row, logit_of(shared.list[at]))) : 0;
  }
  u64 upto = block_scan(mass[0] + mass[1], shared.scratch) - mass[1];
  for (u32 i = 0; i < 2; i++) {
    u32 at = 2 * tid() + i;
    if (i) upto += mass[1];
    if (by_count ? at + 1 == left : upto >= left && upto - mass[i] < left) {
      shared.last = shared.list[at];
      shared.mass = upto;
    }
  }
  barrier();
}

// The fewest best tokens that have what is wanted; `mass`: what the part is of, 0 for all.
DEV Kept cut(Shared& shared, const Row& row, const Wanted& wanted, u64 mass) {
  bool by_count = wanted.count != 0;
  Part part = {0, 0, 0};
  u64 left = wanted.count, mass_before = 0;
  Border border;
  bool whole;
  for (;;) {
    histogram(shared, row, part);
    u32 count = shared.counts[tid()];
    u64 own_mass = shared.masses[tid()];
    u64 counts = block_scan(count, shared.scratch), masses = block_scan(own_mass, shared.scratch);
    if (tid() == 0) shared.border.bucket = NONE;
    if (tid() == THREADS - 1) shared.mass = masses;
    barrier();
    if (part.level == 0 && !by_count) left = mass_wanted(wanted, mass ? mass : shared.mass);
    u64 upto = by_count ? counts : masses, own = by_count ? count : own_mass;
    if (upto >= left && upto - own < left)
      shared.border = {tid(), (u32)(counts - count), count, masses - own_mass};
    barrier();
    if (shared.border.bucket == NONE) return all_tokens();
    border = shared.border;
    whole = part.level == 0 && border.count_before + border.count <= LISTED;
    if (whole) break;
    left -= by_count ? border.count_before : border.mass_before;
    mass_before += border.mass_before;
    if (border.count <= LISTED) break;
    // At the last level a bucket holds a single token.
    part = part.level ? Part{part.level + 1, part.z_bucket, part.prefix << DIGIT_BITS | border.bucket}
                      : Part{1, border.bucket, 0};
  }

  if (tid() == 0) shared.listed = 0;
  barrier();
  for_each(row.logits, 0, row.vocab, [&](float logit, u32 id) {
    u32 digit;
    if (!digit_of(part, z_of(row, logit), logit, id, digit)) return;
    if (whole ? digit <= border.bucket : digit == border.bucket)
      shared.list[lds_add(&shared.listed, 1u)] = rank_of(logit, id);
  });
  barrier();
  u32 listed = shared.listed, room = 2;
  while (room < listed) room *= 2;
  for (u32 i = listed + tid(); i < room; i += THREADS) shared.list[i] = ~0ull;
  barrier();
  block_sort(shared.list, room);
  pick(shared, row, listed, by_count, left);
  return {shared.last, mass_before + shared.mass, whole ? listed : 0};
}

// The mass of a token if it is kept, else 0.
DEV u64 kept_mass(const Row& row, const Kept& kept, float min_p, float logit, u64 rank) {
  float z = z_of(row, logit);
  return rank <= kept.last && fast_exp(-z) >= min_p ? mass_of(z) : 0;
}

// The first token up to which the kept tokens, in order of their ids, have more than `draw` of their
// mass. sum(begin, end) is the block's sum of kept masses of those ids.
template <class Sum>
DEV u32 draw_token(u32 vocab, double draw, const Sum& sum) {
  u64 mass = sum(0, vocab), left = (u64)(draw * (double)mass);
  if (left >= mass) left = mass - 1;
  u32 width = 1, begin = 0;
  while (width < vocab) width *= 2;
  while (width /= 2) {
    u64 lower = sum(begin, minimum(begin + width, vocab));
    if (left >= lower) left -= lower, begin += width;
  }
  return begin;
}

KERNEL(sample, THREADS, 4, const float* logits, const u32x4* best, const Params* params, const u32* rows, u32* tokens,
       u32 vocab, u32 stride, u32 slices) {
  LDS Shared shared;
  if (block_x() >= *rows) return;
  Params p = params[block_x()];
  float max = -__builtin_inff();
  u32 first = ~0u, broken = 0;
  auto take = [&](float logit, u32 token) {
    if (logit > max || (logit == max && token < first)) max = logit, first = token;
  };
  for (u32 i = lane(); i < slices; i += WAVE) {
    u32x4 slice = best[(u64)block_x() * slices + i];
    u32 bits = slice[0];
    take(__builtin_bit_cast(float, bits), slice[1]);
    broken |= slice[2];
  }
  for (u32 m = WAVE / 2; m; m /= 2) {
    float logit = shuffle_xor(max, m);
    take(logit, shuffle_xor(first, m));
    broken |= shuffle_xor(broken, m);
  }
  if (max == -__builtin_inff()) broken = 1;
  if (broken || p.scale == 0.0f) {
    if (tid() == 0) tokens[block_x()] = broken ? BROKEN : first;
    return;
  }

  Row row = {logits + (u64)block_x() * stride, vocab, max, p.scale};
  Kept kept = all_tokens();
  if (p.top_k && p.top_k < vocab) kept = cut(shared, row, {p.top_k, 0}, 0);
  if (p.top_p < 1.0f) {
    Wanted wanted = {0, (double)p.top_p};
    if (kept.listed) {
      pick(shared, row, kept.listed, false, mass_wanted(wanted, kept.mass));
      kept.last = shared.last;
    } else {
      kept = cut(shared, row, wanted, kept.mass);
    }
  }
  u32 token;
  if (kept.listed) {
    token = draw_token(vocab, p.draw, [&](u32 begin, u32 end) {
      u64 mass = 0;
      for (u32 i = tid(); i < kept.listed; i += THREADS) {
        u64 rank = shared.list[i];
        u32 id = (u32)rank & ((1u << ID_BITS) - 1);
        if (id >= begin && id < end) mass += kept_mass(row, kept, p.min_p, logit_of(rank), rank);
      }
      return block_total(mass, shared.scratch);
    });
  } else {
    token = draw_token(vocab, p.draw, [&](u32 begin, u32 end) {
      u64 mass = 0;
      for_each(row.logits, begin, end,
               [&](float logit, u32 id) { mass += kept_mass(row, kept, p.min_p, logit, rank_of(logit, id)); });
      return block_total(mass, shared.scratch);
    });
  }
  if (tid() == 0) tokens[block_x()] = token;
}
