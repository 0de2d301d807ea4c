// IQ4_NL and IQ4_XS: codes name one of 16 uneven values, -127 to 113, denser near zero; 4.5 and 4.25 bits per
// weight.
//
// IQ4_NL: 32 weights, w = d * value.
// Bytes: 0 d, 2..17 codes as in Q4_0.
//
// IQ4_XS: 256 weights, 8 sub-blocks of 32, w = d * scale * value, scale -32..31.
// Bytes: 0 d, 2..3 upper two bits of scale + 32 (sub-block j at bit 2 j), 4..7 lower four bits (j even low
// nibble), 8..135 codes, 16 bytes per sub-block.
#pragma once

#include "formats/q4_0.hpp"

namespace raq::RAQ_LEVEL {

struct UnevenTable {
  static constexpr float low = -127;
  static constexpr int count = 16;

  // Source of the values: ggml's table of IQ4_NL.
  RAQ_INLINE static constexpr float value(int code) {
    constexpr float table[count] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    return table[code];
  }
  RAQ_INLINE static constexpr float middle(int code) { return (value(code - 1) + value(code)) * 0.5f; }
};

#if RAQ_LANES == 16 && defined(__AVX512F__)
// For each multiple of 8, at the last five bits of it, what a position nearest to it becomes: middles are further than
// 8 from each other, so that there is at most one.
struct UnevenNear {
  float middle[2 * lanes], below[2 * lanes], above[2 * lanes];

  constexpr UnevenNear() : middle{}, below{}, above{} {
    for (int multiple = -16; multiple < 16; ++multiple) {
      int code = 1;
      while (code < UnevenTable::count - 1 && UnevenTable::middle(code) < 8.0f * multiple - 4.0f) ++code;
      middle[multiple & 31] = UnevenTable::middle(code);
      below[multiple & 31] = UnevenTable::value(code - 1);
      above[multiple & 31] = UnevenTable::value(code);
    }
  }
  RAQ_INLINE static Float look_up(const float* table, Int place) {
    Float halves[2];
    memcpy(halves, table, sizeof halves);
    return __builtin_shuffle(halves[0], halves[1], place);
  }

  RAQ_INLINE Float round(Float position) const {
    const Float within = clamp(position, UnevenTable::value(0), UnevenTable::value(UnevenTable::count - 1));
    const Int place =
        float_bits(within + 8.0f * 12582912.0f);  // as in `nearest`: the last bits of a multiple
    return select(within > look_up(middle, place), look_up(above, place), look_up(below, place));
  }
};
#elif RAQ_LANES == 8 && defined(__AVX2__)
// A register holds the middles that a position is compared with when the first bits of its code are known.
struct UnevenNear {
  float middles[4][lanes], values[2][lanes];

  constexpr UnevenNear() : middles{}, values{} {
    for (int bits = 0; bits < 4; ++bits)
      for (int known = 0; known < 1 << bits; ++known)
        middles[bits][known] = UnevenTable::middle((2 * known + 1) << (3 - bits));
    for (int code = 0; code < UnevenTable::count; ++code)
      values[code % 2][code / 2] = UnevenTable::value(code);
  }
  RAQ_INLINE static Float look_up(const float* table, Int place) {
    Float values;
    memcpy(&values, table, sizeof values);
    return __builtin_shuffle(values, place);
  }

  RAQ_INLINE Float round(Float position) const {
    Int code = splat(0) - (position > splat(UnevenTable::middle(8)));
    for (int bits = 1; bits < 3; ++bits) code = code + code - (position > look_up(middles[bits], code));
    return select(position > look_up(middles[3], code), look_up(values[1], code), look_up(values[0], code));
  }
};
#else
struct UnevenNear {
  RAQ_INLINE Float round(Float position) const {
    Float found = splat(UnevenTable::value(0));
    RAQ_UNROLL
    for (int code = 1; code < UnevenTable::count; ++code)
      found = select(position > splat(UnevenTable::middle(code)), splat(UnevenTable::value(code)), found);
    return found;
  }
};
#endif

struct UnevenValues : UnevenTable {
  RAQ_INLINE static Float round(Float position) {
    constexpr UnevenNear near{};
    return near.round(position);
  }
  RAQ_INLINE static Int code_of(Float position) {
    Int code = splat(0);
    for (int i = 1; i < count; ++i) code += select(position > splat(middle(i)), splat(1), splat(0));
    return code;
  }
  RAQ_INLINE static Float value_of(Int code) {
    Float found = splat(value(0));
    for (int i = 1; i < count; ++i) found = select(code == splat(i), splat(value(i)), found);
    return found;
  }
};

struct IQ4_NL {
  static constexpr int weights = 32, bytes = 18;
  static constexpr int sub_block = 32, first_code_byte = 2, code_bytes = 16;
  using Levels = UnevenValues;

  RAQ_NOINLINE static void quantize(const Float* x, const Float* h, Unit unit, Effort effort,
                                    Bytes<bytes>& block) {
    const StoredScale d =
        store_scale(fit_scale<UnevenValues, weights>(x, h, scale_search(effort, 40.0f)).scale, unit);
    const Float inverse = inverse_or_zero(d.value);
    Int codes[weights];
    for (int k = 0; k < weights; ++k) codes[k] = UnevenValues::code_of(x[k] * inverse);
    block.clear();
    block.put_pair(0, d.bits);
    put_codes(block, codes);
  }

  RAQ_INLINE static Int code_of(Float level) { return UnevenValues::code_of(level); }
  RAQ_INLINE static void put_codes(Bytes<bytes>& block, const Int* codes) { put_nibbles(block, 2, codes); }
  RAQ_INLINE static Scales scales(const Bytes<bytes>& block, int) {
    return {half_to_float(block.get_pair(0)), splat(0.0f)};
  }

  RAQ_HD static void dequantize(const Bytes<bytes>& block, Float* x) {
    const Float d = half_to_float(block.get_pair(0));
    for (int k = 0; k < weights; ++k) x[k] = d * UnevenValues::value_of(get_nibble(block, 2, k));
  }
};

struct IQ4_XS {
  static constexpr int weights = 256, bytes = 136;
  static constexpr int sub_block = 32, first_code_byte = 8, code_bytes = 128;
  using Levels = UnevenValues;

  RAQ_NOINLINE static void quantize(const Float* x, const Float* h, Unit unit, Effort effort,
                                    Bytes<bytes>& block) {
    SymmetricSuperBlock<UnevenValues, SymmetricShape{8, 32, -32, 31}> found;
    found.search(x, h, unit, scale_search(effort, 40.0f));
    block.clear();
    block.put_pair(0, found.d.bits);
    for (int j = 0; j < 8; ++j) {
      const Int scale = truncate(found.scales[j]) + 32;
      block.put(2 + j / 4, (scale >> 4) << (2 * (j % 4)));
      block.put(4 + j / 2, (scale & 15) << (4 * (j % 2)));
    }
    Int codes[weights];
    for (int k = 0; k < weights; ++k) codes[k] = code_of(found.codes[k]);
    put_codes(block, codes);
  }

  RAQ_INLINE static Int code_of(Float level) { return UnevenValues::code_of(level); }
  RAQ_INLINE static void put_codes(Bytes<bytes>& block, const Int* codes) {
    for (int j = 0; j < 8; ++j) put_nibbles(block, 8 + 16 * j, codes + 32 * j);
  }
  RAQ_INLINE static Scales scales(const Bytes<bytes>& block, int j) {
    const Int high = (block.get(2 + j / 4) >> (2 * (j % 4))) & 3,
              low = (block.get(4 + j / 2) >> (4 * (j % 2))) & 15;
    return {half_to_float(block.get_pair(0)) * to_float((low | (high << 4)) - 32), splat(0.0f)};
  }

  RAQ_HD static void dequantize(const Bytes<bytes>& block, Float* x) {
    for (int j = 0; j < 8; ++j) {
      const Float scale = scales(block, j).scale;
      for (int k = 0; k < 32; ++k)
        x[32 * j + k] = scale * UnevenValues::value_of(get_nibble(block, 8 + 16 * j, k));
    }
  }
};

}  // namespace raq::RAQ_LEVEL
