// Readers of weights W [n, k], one per storage format: gemm and gemv are written once over them.
//
// A reader gives runs of 8 k-values of a row ("octets") as
//   value = code * scale + minimum,
// one at a time (gemm, which spreads a tile over work-items) or OCTETS of them from one 16-byte load,
// a "chunk" (gemv, which streams). Of a reader R:
//   R::OCTETS          octets in a chunk
//   R::SCALED, R::SHIFTED     whether there is a scale, a minimum
//   R::chunk_k(c)      the first k-value of a row's chunk c
//   R::octet_k(o)      where octet o of a chunk begins, from the chunk's first k-value
//   r.load<N>(row, k)  what N octets need, as it is in memory: N = 1, or OCTETS at a chunk's first k
//   R::octet(raw, o)   decoded
// and dequantise<T, R>(raw, o): scaled in f32 and rounded to T. Rows and k given to load must exist. Every
// code is exact in bf16 and in f16.
//
// MI200's matrix instructions take subnormals for zero: in bf16 no weight of a model is one; in f16, which is
// for checkpoints in f32, all below 6.1e-5 are (docs/amd.md).
//
// CPU reference: src/checkpoint/blocks.rs.
#pragma once
#include "port.h"

// In pairs, for packed arithmetic.
struct Octet {
  f32x2 code[4];
  float scale, minimum;
};

template <u32 N>
struct Words {
  u32 v[N];
};
// At an address aligned to their size.
template <u32 N>
DEV Words<N> load_words(const u8* p) {
  if constexpr (N == 1) return __builtin_bit_cast(Words<N>, *(const u32*)p);
  if constexpr (N == 2) return __builtin_bit_cast(Words<N>, *(const u32x2*)p);
  if constexpr (N == 4) return __builtin_bit_cast(Words<N>, *(const u32x4*)p);
}

DEV void unsigned_bytes(u32 word, f32x2* out) {
  out[0] = f32x2{(float)(word & 255), (float)(word >> 8 & 255)};
  out[1] = f32x2{(float)(word >> 16 & 255), (float)(word >> 24)};
}
DEV void signed_bytes(u32 word, f32x2* out) {
  out[0] = f32x2{(float)((i32)(word << 24) >> 24), (float)((i32)(word << 16) >> 24)};
  out[1] = f32x2{(float)((i32)(word << 8) >> 24), (float)((i32)word >> 24)};
}
// Byte i holds value i below, value i + 4 above.
DEV void nibbles(u32 word, f32x2* out) {
  unsigned_bytes(word & 0x0f0f0f0f, out);
  unsigned_bytes(word >> 4 & 0x0f0f0f0f, out + 2);
}
template <class T>
DEV f32x2 pair(const Eight<T>& x, u32 i) { return f32x2{to_float(x.v[2 * i]), to_float(x.v[2 * i + 1])}; }
DEV float f16_low(u32 word) { return (float)__builtin_bit_cast(f16, (u16)word); }
DEV float f16_high(u32 word) { return (float)__builtin_bit_cast(f16, (u16)(word >> 16)); }

// Chunks consecutive along k.
template <u32 N>
struct Consecutive {
  static constexpr u32 OCTETS = N;
  DEV u32 chunk_k(u32 c) { return c * (8 * N); }
  DEV u32 octet_k(u32 o) { return o * 8; }
};

// Unquantised: values T [n, k], k a multiple of 8.
template <class T>
struct HalfWeights : Consecutive<1> {
  static constexpr bool SCALED = false, SHIFTED = false;
  const T* values;
  u32 k;

  METHOD HalfWeights(const T* values, u32 k) : values(values), k(k) {}
  template <u32 N>
  METHOD Eight<T> load(u32 row, u32 at) const { return load8(values + (u64)row * k + at); }
  DEV Octet octet(const Eight<T>& raw, u32) {
    Octet x;
#pragma unroll
    for (u32 i = 0; i < 4; i++) x.code[i] = pair(raw, i);
    x.scale = 1, x.minimum = 0;
    return x;
  }
};

// ggml's Q8_0, taken apart: codes i8 [n, k], scales f16 [n, k / 32]; k a multiple of 32.
struct Q8_0Weights : Consecutive<2> {
  static constexpr bool SCALED = true, SHIFTED = false;
  const u8* codes;
  const f16* scales;
  u32 k;

  METHOD Q8_0Weights(const u8* codes, const f16* scales, u32 k) : codes(codes), scales(scales), k(k) {}
  template <u32 N>
  struct Raw {
    Words<2 * N> codes;
    f16 scale;
  };
  template <u32 N>
  METHOD Raw<N> load(u32 row, u32 at) const {
    return {load_words<2 * N>(codes + (u64)row * k + at), scales[(u64)row * (k / 32) + at / 32]};
  }
  template <u32 N>
  DEV Octet octet(const Raw<N>& raw, u32 o) {
    Octet x;
    signed_bytes(raw.codes.v[2 * o], x.code);
    signed_bytes(raw.codes.v[2 * o + 1], x.code + 2);
    x.scale = (float)raw.scale, x.minimum = 0;
    return x;
  }
};

// 4-bit codes with a scale and a minimum per group of 32, 64 or 128 k-values (AWQ, GPTQ, ggml's Q4_0 and
// Q4_1): nibbles u8 [n, k / 2], where byte i of 4 has value i of 8 below and value i + 4 above; scales
// f16 [n, k / group, 2], a scale and a minimum; k a multiple of group.
struct Int4Weights : Consecutive<4> {
  static constexpr bool SCALED = true, SHIFTED = true;
  const u8* codes;
  const u32* scales;
  u32 k, shift;

  METHOD Int4Weights(const u8* codes, const u32* scales, u32 k, u32 group)
      : codes(codes), scales(scales), k(k), shift(group == 128 ? 7 : group == 64 ? 6 : 5) {}
  template <u32 N>
  struct Raw {
    Words<N> codes;
    u32 scale;
  };
  template <u32 N>
  METHOD Raw<N> load(u32 row, u32 at) const {
    return {load_words<N>(codes + ((u64)row * k + at) / 2), scales[(u64)row * (k >> shift) + (at >> shift)]};
  }
  template <u32 N>
  DEV Octet octet(const Raw<N>& raw, u32 o) {
    Octet x;
    nibbles(raw.codes.v[o], x.code);
    x.scale = f16_low(raw.scale), x.minimum = f16_high(raw.scale);
    return x;
  }
};

// 4-bit codes of a codebook of 16 whole numbers, i8 in 4 words, and a scale per 32 k-values (ggml's IQ4_NL,
// IQ4_XS and MXFP4): nibbles u8 [n, k / 2] as in Int4Weights; scales f32 [n, k / 32]; k a multiple of 32.
struct CodebookWeights : Consecutive<4> {
  static constexpr bool SCALED = true, SHIFTED = false;
  const u8* codes;
  const float* scales;
  Words<4> book;
  u32 k;

  METHOD CodebookWeights(const u8* codes, const float* scales, Words<4> book, u32 k)
      : codes(codes), scales(scales), book(book), k(k) {}
  template <u32 N>
  struct Raw {
    Words<N> codes;
    float scale;
    Words<4> book;
  };
  template <u32 N>
  METHOD Raw<N> load(u32 row, u32 at) const {
    return {load_words<N>(codes + ((u64)row * k + at) / 2), scales[(u64)row * (k / 32) + at / 32], book};
  }
  // The numbers of four codes, a byte each.
  DEV u32 look_up(const Words<4>& book, u32 codes) {
    u32 which = codes & 0x07070707, late = (codes >> 3 & 0x01010101) * 255;
    return (pick_bytes(book.v[0], book.v[1], which) & ~late) | (pick_bytes(book.v[2], book.v[3], which) & late);
  }
  template <u32 N>
  DEV Octet octet(const Raw<N>& raw, u32 o) {
    Octet x;
    u32 word = raw.codes.v[o];
    signed_bytes(look_up(raw.book, word & 0x0f0f0f0f), x.code);
    signed_bytes(look_up(raw.book, word >> 4 & 0x0f0f0f0f), x.code + 2);
    x.scale = raw.scale, x.minimum = 0;
    return x;
  }
};

// ggml's Q4_K as it is in a file: k / 256 super-blocks of 144 bytes a row: d f16, dmin f16, eight pairs of
// 6 bits (sc, m) in 12 bytes, then 128 bytes of nibbles: byte i of each 32 has value i of one group of 32
// below, of the next group above. A value is d * sc * code - dmin * m.
struct Q4_KWeights {
  static constexpr bool SCALED = true, SHIFTED = true;
  // 16 bytes: 16 values of one group, 16 of the next.
  static constexpr u32 OCTETS = 4;
  DEV u32 chunk_k(u32 c) { return c / 2 * 64 + c % 2 * 16; }
  DEV u32 octet_k(u32 o) { return o / 2 * 32 + o % 2 * 8; }
  const u8* blocks;
  u32 k;

  METHOD Q4_KWeights(const u8* blocks, u32 k) : blocks(blocks), k(k) {}
  template <u32 N>
  struct Raw {
    u32x4 head;
    Words<N == 1 ? 2 : 4> codes;
    u32 group;
  };
  template <u32 N>
  METHOD Raw<N> load(u32 row, u32 at) const {
    const u8* block = blocks + ((u64)row * (k / 256) + at / 256) * 144;
    return {*(const u32x4*)block, load_words<N == 1 ? 2 : 4>(block + 16 + at % 256 / 64 * 32 + at % 32), at % 256 / 32};
  }
  template <u32 N>
  DEV Octet octet(const Raw<N>& raw, u32 o) {
    Octet x;
    u32 group = raw.group + o / 2, shift = group % 2 * 4, first = N == 1 ? 0 : o % 2 * 2;
    unsigned_bytes(raw.codes.v[first] >> shift & 0x0f0f0f0f, x.code);
    unsigned_bytes(raw.codes.v[first + 1] >> shift & 0x0f0f0f0f, x.code + 2);
    // ggml's get_scale_min_k4: groups 4..8 keep their low 4 bits in the third word, their high 2 above the
    // 6 bits of groups 0..4.
    u32 byte = group % 4 * 8;
    u32 sc = raw.head[1] >> byte, m = raw.head[2] >> byte, low = raw.head[3] >> byte;
    bool late = group >= 4;
    sc = late ? (low & 15) | (sc >> 2 & 48) : sc & 63;
    m = late ? (low >> 4 & 15) | (m >> 2 & 48) : m & 63;
    x.scale = f16_low(raw.head[0]) * (float)sc, x.minimum = -f16_high(raw.head[0]) * (float)m;
    return x;
  }
};

// ggml's Q6_K, taken apart so that loads are aligned: low u8 [n, k / 2], nibbles as in Int4Weights;
// high u8 [n, k / 4], where byte i of 4 has the upper 2 bits of values i, i + 4, i + 8, i + 12 of 16, from
// the lowest bits on; scales i8 [n, k / 16]; d f16 [n, k / 256]. A value is d * scale * (code - 32).
struct Q6_KWeights : Consecutive<4> {
  static constexpr bool SCALED = true, SHIFTED = false;
  const u8 *low, *high, *scales;
  const f16* d;
  u32 k;

  METHOD Q6_KWeights(const u8* low, const u8* high, const u8* scales, const f16* d, u32 k)
      : low(low), high(high), scales(scales), d(d), k(k) {}
  template <u32 N>
  struct Raw {
    Words<N> low;
    Words<N == 1 ? 1 : 2> high;
    // The octet's scale, or those of the chunk's two groups.
    u16 scales;
    f16 d;
    // Where in its word of high bits a lone octet's are.
    u32 shift;
  };
  template <u32 N>
  METHOD Raw<N> load(u32 row, u32 at) const {
    u64 begin = (u64)row * k + at;
    const u8* scale = scales + begin / 16;
    return {load_words<N>(low + begin / 2), load_words<N == 1 ? 1 : 2>(high + begin / 16 * 4),
            N == 1 ? (u16)*scale : *(const u16*)scale, d[(u64)row * (k / 256) + at / 256], at % 16 / 2};
  }
  template <u32 N>
  DEV Octet octet(const Raw<N>& raw, u32 o) {
    Octet x;
    u32 low = raw.low.v[o], high = raw.high.v[o / 2] >> (N == 1 ? raw.shift : o % 2 * 4);
    unsigned_bytes((low & 0x0f0f0f0f) | (high & 0x03030303) << 4, x.code);
    unsigned_bytes((low >> 4 & 0x0f0f0f0f) | (high >> 2 & 0x03030303) << 4, x.code + 2);
#pragma unroll
    for (u32 i = 0; i < 4; i++) x.code[i] -= 32.0f;
    x.scale = (float)raw.d * (float)(i8)(raw.scales >> (o / 2 * 8)), x.minimum = 0;
    return x;
  }
};

// FP8: codes e4m3 [n, k], scales f32 [n, ceil(k / 128)]; k a multiple of 16. An e4m3's fields at the
// places of an f16's give the value / 256, exactly, as f16's exponent has a bias of 15 and not 7; the two
// codes of NaN, which no served weight has, give 480.
struct Fp8Weights : Consecutive<2> {
  static constexpr bool SCALED = true, SHIFTED = false;
  const u8* codes;
  const float* scales;
  u32 k;

  METHOD Fp8Weights(const u8* codes, const float* scales, u32 k) : codes(codes), scales(scales), k(k) {}
  template <u32 N>
  struct Raw {
    Words<2 * N> codes;
    float scale;
  };
  template <u32 N>
  METHOD Raw<N> load(u32 row, u32 at) const {
    return {load_words<2 * N>(codes + (u64)row * k + at), scales[(u64)row * ((k + 127) / 128) + at / 128]};
  }
  template <u32 N>
  DEV Octet octet(const Raw<N>& raw, u32 o) {
    Octet x;
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
      u32 word = raw.codes.v[2 * o + i];
      u32 even = (word & 0x00800080) << 8 | (word & 0x007f007f) << 7;
      u32 odd = (word & 0x80008000) | (word & 0x7f007f00) >> 1;
      x.code[2 * i] = f32x2{f16_low(even), f16_low(odd)};
      x.code[2 * i + 1] = f32x2{f16_high(even), f16_high(odd)};
    }
    x.scale = raw.scale * 256.0f, x.minimum = 0;
    return x;
  }
};

// from_float for numbers that are not NaN.
template <class T>
DEV T round_to(float x) {
  if constexpr (same<T, bf16>) {
    u32 bits = __builtin_bit_cast(u32, x);
    return bf16{(u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
  } else {
    return (T)x;
  }
}

template <class T, class R, class Raw>
DEV Eight<T> dequantise(const Raw& raw, u32 o) {
  if constexpr (same<R, HalfWeights<T>>) {
    return raw;
  } else {
    Octet x = R::octet(raw, o);
    Eight<T> y;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
      f32x2 value = x.code[i];
      if (R::SHIFTED) value = value * x.scale + x.minimum;
      else if (R::SCALED) value *= x.scale;
      y.v[2 * i] = round_to<T>(value[0]), y.v[2 * i + 1] = round_to<T>(value[1]);
    }
    return y;
  }
}
