// Q4_1 and Q5_1: 32 weights share a half-precision scale and base; w = d * code + m; 5 and 6 bits per weight.
//
// Bytes of Q4_1: 0 d, 2 m, 4..19 low four bits as in Q4_0.
//
// Bytes of Q5_1: 0 d, 2 m, 4..7 fifth bits, 8..23 low four bits.
#pragma once

#include "formats/q4_0.hpp"
#include "search/affine.hpp"

namespace raq::RAQ_LEVEL {

struct AffineScales {
  StoredScale d, m;
};

// What Q4_1 and Q5_1 share: codes are levels from 0 to `high`.
template <int high>
struct BasedCodes {
  static constexpr int weights = 32, sub_block = 32;
  using Levels = Whole<0, high>;

  RAQ_INLINE static Int code_of(Float level) { return truncate(level); }
  template <int Count>
  RAQ_INLINE static Scales scales(const Bytes<Count>& block, int) {
    return {half_to_float(block.get_pair(0)), splat(0.0f) - half_to_float(block.get_pair(2))};
  }
};

template <int high>
RAQ_INLINE AffineScales affine_codes(const Float* x, const Float* h, Unit unit, Effort effort, Int* codes) {
  Float weight;
  const AffineFit fit = fit_affine<32, true>(x, h, high, simple_affine_search(effort, high), weight);
  const AffineScales stored{store_scale(fit.scale, unit), store_scale(fit.base, unit)};
  const Float inverse = inverse_or_zero(stored.d.value);
  for (int k = 0; k < 32; ++k) codes[k] = truncate(Whole<0, high>::round((x[k] - stored.m.value) * inverse));
  return stored;
}

struct Q4_1 : BasedCodes<15> {
  static constexpr int bytes = 20, first_code_byte = 4, code_bytes = 16;

  RAQ_HD static void quantize(const Float* x, const Float* h, Unit unit, Effort effort, Bytes<bytes>& block) {
    Int codes[weights];
    const AffineScales stored = affine_codes<15>(x, h, unit, effort, codes);
    block.clear();
    block.put_pair(0, stored.d.bits);
    block.put_pair(2, stored.m.bits);
    put_codes(block, codes);
  }

  RAQ_INLINE static void put_codes(Bytes<bytes>& block, const Int* codes) { put_nibbles(block, 4, codes); }

  RAQ_HD static void dequantize(const Bytes<bytes>& block, Float* x) {
    const Float d = half_to_float(block.get_pair(0)), m = half_to_float(block.get_pair(2));
    for (int k = 0; k < weights; ++k) x[k] = d * to_float(get_nibble(block, 4, k)) + m;
  }
};

struct Q5_1 : BasedCodes<31> {
  static constexpr int bytes = 24, first_code_byte = 4, code_bytes = 20;

  RAQ_HD static void quantize(const Float* x, const Float* h, Unit unit, Effort effort, Bytes<bytes>& block) {
    Int codes[weights];
    const AffineScales stored = affine_codes<31>(x, h, unit, effort, codes);
    block.clear();
    block.put_pair(0, stored.d.bits);
    block.put_pair(2, stored.m.bits);
    put_codes(block, codes);
  }

  RAQ_INLINE static void put_codes(Bytes<bytes>& block, const Int* codes) {
    put_fifth_bits(block, 4, codes);
    put_nibbles(block, 8, codes);
  }

  RAQ_HD static void dequantize(const Bytes<bytes>& block, Float* x) {
    const Float d = half_to_float(block.get_pair(0)), m = half_to_float(block.get_pair(2));
    for (int k = 0; k < weights; ++k)
      x[k] = d * to_float(get_nibble(block, 8, k) | (get_fifth_bit(block, 4, k) << 4)) + m;
  }
};

}  // namespace raq::RAQ_LEVEL
