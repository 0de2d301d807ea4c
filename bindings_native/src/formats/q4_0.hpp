// Q4_0 and Q5_0: 32 weights share one half-precision scale; w = d * (code - middle), middle 8 or 16; 4.5 and
// 5.5 bits per weight.
//
// Bytes of Q4_0: 0 d, 2..17 low four bits (byte j: weight j low nibble, weight j + 16 high nibble).
//
// Bytes of Q5_0: 0 d, 2..5 fifth bits (bit k: weight k), 6..21 low four bits as in Q4_0.
#pragma once

#include "common/levels.hpp"
#include "effort.hpp"
#include "search/symmetric.hpp"

namespace raq::RAQ_LEVEL {

// 16 bytes of nibbles from offset on: 32 codes, of which the low four bits are stored.
template <int Count>
RAQ_INLINE void put_nibbles(Bytes<Count>& block, int offset, const Int* codes) {
  for (int j = 0; j < 16; ++j) block.put(offset + j, (codes[j] & 15) | ((codes[j + 16] & 15) << 4));
}
template <int Count>
RAQ_INLINE Int get_nibble(const Bytes<Count>& block, int offset, int k) {
  return (block.get(offset + k % 16) >> (4 * (k / 16))) & 15;
}
// 4 bytes at offset: the fifth bits of 32 codes.
template <int Count>
RAQ_INLINE void put_fifth_bits(Bytes<Count>& block, int offset, const Int* codes) {
  for (int k = 0; k < 32; ++k) block.put(offset + k / 8, (codes[k] >> 4) << (k % 8));
}
template <int Count>
RAQ_INLINE Int get_fifth_bit(const Bytes<Count>& block, int offset, int k) {
  return (block.get(offset + k / 8) >> (k % 8)) & 1;
}

// What Q4_0 and Q5_0 share: codes are levels from -middle on, shifted to start at 0.
template <int middle>
struct ShiftedCodes {
  static constexpr int weights = 32, sub_block = 32;
  using Levels = Whole<-middle, middle - 1>;

  RAQ_INLINE static Int code_of(Float level) { return truncate(level) + middle; }
  template <int Count>
  RAQ_INLINE static Scales scales(const Bytes<Count>& block, int) {
    return {half_to_float(block.get_pair(0)), splat(0.0f)};
  }
};

template <int middle>
RAQ_INLINE StoredScale symmetric_codes(const Float* x, const Float* h, Unit unit, Effort effort, Int* codes) {
  using Shifted = ShiftedCodes<middle>;
  using Levels = typename Shifted::Levels;
  const StoredScale d = store_scale(fit_scale<Levels, 32>(x, h, simple_scale_search(effort)).scale, unit);
  const Float inverse = inverse_or_zero(d.value);
  for (int k = 0; k < 32; ++k) codes[k] = Shifted::code_of(Levels::round(x[k] * inverse));
  return d;
}

struct Q4_0 : ShiftedCodes<8> {
  static constexpr int bytes = 18, first_code_byte = 2, code_bytes = 16;

  RAQ_HD static void quantize(const Float* x, const Float* h, Unit unit, Effort effort, Bytes<bytes>& block) {
    Int codes[weights];
    block.clear();
    block.put_pair(0, symmetric_codes<8>(x, h, unit, effort, codes).bits);
    put_codes(block, codes);
  }

  RAQ_INLINE static void put_codes(Bytes<bytes>& block, const Int* codes) { put_nibbles(block, 2, codes); }

  RAQ_HD static void dequantize(const Bytes<bytes>& block, Float* x) {
    const Float d = half_to_float(block.get_pair(0));
    for (int k = 0; k < weights; ++k) x[k] = d * to_float(get_nibble(block, 2, k) - 8);
  }
};

struct Q5_0 : ShiftedCodes<16> {
  static constexpr int bytes = 22, first_code_byte = 2, code_bytes = 20;

  RAQ_HD static void quantize(const Float* x, const Float* h, Unit unit, Effort effort, Bytes<bytes>& block) {
    Int codes[weights];
    block.clear();
    block.put_pair(0, symmetric_codes<16>(x, h, unit, effort, codes).bits);
    put_codes(block, codes);
  }

  RAQ_INLINE static void put_codes(Bytes<bytes>& block, const Int* codes) {
    put_fifth_bits(block, 2, codes);
    put_nibbles(block, 6, codes);
  }

  RAQ_HD static void dequantize(const Bytes<bytes>& block, Float* x) {
    const Float d = half_to_float(block.get_pair(0));
    for (int k = 0; k < weights; ++k)
      x[k] = d * to_float((get_nibble(block, 6, k) | (get_fifth_bit(block, 2, k) << 4)) - 16);
  }
};

}  // namespace raq::RAQ_LEVEL
