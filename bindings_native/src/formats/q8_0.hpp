// Q8_0: 32 weights share one half-precision scale; w = d * code, code in [-127, 127]; 8.5 bits per weight.
//
// Bytes: 0 d, 2..33 codes. Codes are rounded with the scale as stored, not as computed.
#pragma once

#include "common/levels.hpp"
#include "effort.hpp"
#include "search/symmetric.hpp"

namespace raq::RAQ_LEVEL {

struct Q8_0 {
  static constexpr int weights = 32, bytes = 34;
  static constexpr int sub_block = 32, first_code_byte = 2, code_bytes = 32;
  using Levels = Whole<-127, 127>;

  RAQ_HD static void quantize(const Float* x, const Float* h, Unit unit, Effort effort, Bytes<bytes>& block) {
    Float scale = largest_of<weights>(x) * (1.0f / 127.0f);
    if (effort == Effort::best) scale = fit_scale<Levels, weights>(x, h, {18, 0.2f, false, 3, 1}).scale;
    const StoredScale d = store_scale(scale, unit);
    const Float inverse = inverse_or_zero(d.value);
    Int codes[weights];
    for (int k = 0; k < weights; ++k) codes[k] = code_of(Levels::round(x[k] * inverse));
    block.clear();
    block.put_pair(0, d.bits);
    put_codes(block, codes);
  }

  RAQ_INLINE static Int code_of(Float level) { return truncate(level) & 0xff; }
  RAQ_INLINE static void put_codes(Bytes<bytes>& block, const Int* codes) {
    for (int k = 0; k < weights; ++k) block.put(2 + k, codes[k]);
  }
  RAQ_INLINE static Scales scales(const Bytes<bytes>& block, int) {
    return {half_to_float(block.get_pair(0)), splat(0.0f)};
  }

  RAQ_HD static void dequantize(const Bytes<bytes>& block, Float* x) {
    const Float d = half_to_float(block.get_pair(0));
    for (int k = 0; k < weights; ++k) x[k] = to_float(block.get_signed(2 + k)) * d;
  }
};

}  // namespace raq::RAQ_LEVEL
