// MXFP4 and NVFP4: codes are 4-bit floats, 0 0.5 1 1.5 2 3 4 6 and their negatives,
// here doubled to whole numbers.
//
// MXFP4: 32 weights, w = 2^(e - 128) * doubled value; 4.25 bits per weight.
// Bytes: 0 e, 1..16 codes as in Q4_0.
// Source: OCP Microscaling Formats 1.0.
//
// NVFP4: 64 weights in 4 sub-blocks of 16, w = scale / 2 * doubled value, scale an unsigned float of 4
// exponent and 3 mantissa bits; 4.5 bits per weight.
// Bytes: 0..3 scales, 4..35 codes: 8 bytes per sub-block, low nibble weight j, high nibble weight j + 8.
#pragma once

#include "formats/q4_0.hpp"

namespace raq::RAQ_LEVEL {

struct DoubledFp4 {
  static constexpr float largest = 12;

  RAQ_INLINE static constexpr float value(int code) {
    constexpr float table[8] = {0, 1, 2, 3, 4, 6, 8, 12};
    return table[code];
  }
  RAQ_INLINE static Float round(Float position) {
    const Float size = magnitude(position);
    Float found = splat(0.0f);
    RAQ_UNROLL
    for (int i = 1; i < 8; ++i) found = select(size > splat(middle(i)), splat(value(i)), found);
    return float_of_bits(float_bits(found) | (float_bits(position) & splat(INT32_MIN)));
  }
  RAQ_INLINE static Int code_of(Float position) {
    const Float size = magnitude(position);
    Int code = splat(0);
    for (int i = 1; i < 8; ++i) code += select(size > splat(middle(i)), splat(1), splat(0));
    return code | select((position < splat(0.0f)) & (code > splat(0)), splat(8), splat(0));
  }
  RAQ_INLINE static Float value_of(Int code) {
    Float found = splat(0.0f);
    for (int i = 1; i < 8; ++i) found = select((code & 7) == splat(i), splat(value(i)), found);
    return select((code > splat(8)), splat(0.0f) - found, found);
  }

 private:
  RAQ_INLINE static constexpr float middle(int code) { return (value(code - 1) + value(code)) * 0.5f; }
};

// Weighted squared error of N weights at a scale.
template <int N>
RAQ_INLINE Float fp4_error(const Float* x, const Float* h, Float scale) {
  const Float inverse = inverse_or_zero(scale);
  Float error = splat(0.0f);
  RAQ_UNROLL
  for (int k = 0; k < N; ++k) {
    const Float difference = x[k] - scale * DoubledFp4::round(x[k] * inverse);
    error += h[k] * (difference * difference);
  }
  return error;
}

struct MXFP4 {
  static constexpr int weights = 32, bytes = 17;
  static constexpr int sub_block = 32, first_code_byte = 1, code_bytes = 16;
  using Levels = DoubledFp4;

  // 2^(e - 128). As floats, those of e = 0 and 1 are subnormal.
  RAQ_INLINE static Float scale_of(Int e) {
    return float_of_bits(select(e < splat(2), splat(0x00200000) << e, (e - 1) << 23));
  }

  RAQ_NOINLINE static void quantize(const Float* x, const Float* h, Unit unit, Effort, Bytes<bytes>& block) {
    const Float zero = splat(0.0f);
    const Mask empty = largest_of<weights>(x) == zero;
    const Int unit_exponent = float_bits(unit.scale) >> 23;
    Int best_e = splat(0);
    Float best_error = splat(1e30f), best_scale = zero;
    // The largest weight is in [1, 2) units. A scale of 1/16 reaches 0.75 and so clips it, 1/4 reaches 3.
    for (int offset = -3; offset <= -1; ++offset) {
      const Float scale = splat(offset == -3 ? 0.0625f : offset == -2 ? 0.125f : 0.25f);
      const Float error = fp4_error<weights>(x, h, scale);
      const Mask better = error < best_error;
      best_error = select(better, error, best_error);
      best_scale = select(better, scale, best_scale);
      best_e = select(better, unit_exponent + offset, best_e);
    }
    const Float inverse = inverse_or_zero(best_scale);
    Int codes[weights];
    for (int k = 0; k < weights; ++k) codes[k] = DoubledFp4::code_of(x[k] * inverse);
    block.clear();
    block.put(0, select(empty, splat(0), best_e));
    put_codes(block, codes);
  }

  RAQ_INLINE static Int code_of(Float level) { return DoubledFp4::code_of(level); }
  RAQ_INLINE static void put_codes(Bytes<bytes>& block, const Int* codes) { put_nibbles(block, 1, codes); }
  RAQ_INLINE static Scales scales(const Bytes<bytes>& block, int) {
    return {scale_of(block.get(0)), splat(0.0f)};
  }

  RAQ_HD static void dequantize(const Bytes<bytes>& block, Float* x) {
    const Float scale = scale_of(block.get(0));
    for (int k = 0; k < weights; ++k) x[k] = scale * DoubledFp4::value_of(get_nibble(block, 1, k));
  }
};

struct NVFP4 {
  static constexpr int weights = 64, bytes = 36;
  static constexpr int sub_block = 16, first_code_byte = 4, code_bytes = 32;
  using Levels = DoubledFp4;
  static constexpr int largest_scale = 0x7e;  // 448; 0x7f means zero

  // Half of the scale that a byte encodes; its top bit is ignored.
  RAQ_INLINE static Float half_scale(Int code) {
    const Int exponent = (code >> 3) & 15, mantissa = code & 7;
    const Float subnormal = to_float(mantissa) * 0x1p-10f;
    const Float normal = float_of_bits(((exponent + 119) << 23) | (mantissa << 20));
    const Mask nothing = (code == splat(0)) | (code == splat(0x7f));
    return select(nothing, splat(0.0f), select(exponent == splat(0), subnormal, normal));
  }
  // The code whose half scale is nearest, from 1 on.
  RAQ_INLINE static Int code_of_half_scale(Float scale) {
    const Float bounded = clamp(scale, 0x1p-10f, 224.0f);
    const Int normal = ((float_bits(bounded) + (1 << 19)) >> 20) - (119 << 3);
    const Int subnormal = truncate(nearest(bounded * 0x1p10f));
    return select(bounded < splat(0x1p-7f), subnormal, normal);
  }

  RAQ_NOINLINE static void quantize(const Float* x, const Float* h, Unit unit, Effort effort,
                                    Bytes<bytes>& block) {
    Int codes[weights];
    block.clear();
    for (int j = 0; j < 4; ++j) {
      const Float *xj = x + 16 * j, *hj = h + 16 * j;
      const Float top = largest_of<16>(xj);
      // Scales next to the one at which the largest weight meets the largest code; zero if none is better.
      const Int middle = code_of_half_scale(top * (1.0f / DoubledFp4::largest) * unit.scale);
      Int best_code = splat(0);
      Float best_error = fp4_error<16>(xj, hj, splat(0.0f));
      const int reach = effort == Effort::best ? 8 : 3;
      for (int offset = -reach; offset <= reach; ++offset) {
        Int code = middle + offset;
        code = select(code < splat(1), splat(1),
                      select(code > splat(largest_scale), splat(largest_scale), code));
        const Float error = fp4_error<16>(xj, hj, half_scale(code) * unit.inverse);
        const Mask better = error < best_error;
        best_error = select(better, error, best_error);
        best_code = select(better, code, best_code);
      }
      const Float inverse = inverse_or_zero(half_scale(best_code) * unit.inverse);
      block.put(j, best_code);
      for (int k = 0; k < 16; ++k) codes[16 * j + k] = code_of(xj[k] * inverse);
    }
    put_codes(block, codes);
  }

  RAQ_INLINE static Int code_of(Float level) { return DoubledFp4::code_of(level); }
  RAQ_INLINE static void put_codes(Bytes<bytes>& block, const Int* codes) {
    for (int k = 0; k < weights; ++k) block.put(4 + 8 * (k / 16) + k % 8, codes[k] << (4 * (k % 16 / 8)));
  }
  RAQ_INLINE static Scales scales(const Bytes<bytes>& block, int j) {
    return {half_scale(block.get(j)), splat(0.0f)};
  }

  RAQ_HD static void dequantize(const Bytes<bytes>& block, Float* x) {
    for (int j = 0; j < 4; ++j) {
      const Float scale = half_scale(block.get(j));
      for (int k = 0; k < 16; ++k)
        x[16 * j + k] = scale * DoubledFp4::value_of((block.get(4 + 8 * j + k % 8) >> (4 * (k / 8))) & 15);
    }
  }
};

}  // namespace raq::RAQ_LEVEL
