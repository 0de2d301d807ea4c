// TQ1_0, TQ2_0, Q1_0, Q2_0: one half-precision scale and codes of two, three or four values.
//
// TQ1_0: 256 weights, w = d * (trit - 1); 1.6875 bits per weight.
// Bytes: 0..31 five trits each, of weights j, j + 32 .. j + 128; 32..47 five trits each, of 160 + j,
// 160 + j + 16 ..; 48..51 four trits each, of 240 + j, 240 + j + 4 ..; 52 d. Five trits t0..t4 are the
// fraction (81 t0 + 27 t1 + 9 t2 + 3 t3 + t4) / 243 in 256ths, rounded up.
//
// TQ2_0: 256 weights, w = d * (code - 1), code 0..2; 2.0625 bits.
// Bytes: 0..63 codes laid out as in Q2_K, 64 d.
//
// Q1_0: 128 weights, w = d or -d; 1.125 bits.
// Bytes: 0 d, 2..17 one bit each in order, set for d.
//
// Q2_0: 64 weights, w = d * (code - 1), code 0..3; 2.25 bits.
// Bytes: 0 d, 2..17 codes in order, lowest bits first.
#pragma once

#include "formats/q2_k.hpp"

namespace raq::RAQ_LEVEL {

// The scale where codes are few: the best one may leave the extreme weight far beyond the last code. One
// candidate puts it at the last code, which is exact for models trained to be ternary; another puts the mean
// magnitude at 0.7, near the best for normally distributed weights, and refitting goes on from there. Effort
// `best` also puts the extreme weight at up to 5 times the last code.
template <class Codes, int N>
RAQ_INLINE StoredScale fit_few_codes(const Float* x, const Float* h, Unit unit, Effort effort) {
  ScaleFit best{splat(0.0f), splat(0.0f), splat(0.0f)};
  const auto try_inverse = [&](Float inverse) { keep_better(best, code_sums<Codes, N>(x, h, inverse)); };
  const Float inverse_extreme = inverse_or_zero(extreme_of<N>(x));
  const int steps = effort == Effort::best ? 64 : 0;
  RAQ_ROLLED
  for (int step = 0; step <= steps; ++step) {
    // Both ends of the range are tried where it is not symmetric.
    const Float inverse = (Codes::low * (1.0f + 0.0625f * static_cast<float>(step))) * inverse_extreme;
    try_inverse(inverse);
    if constexpr (-Codes::low != Codes::high) try_inverse(inverse * (Codes::high / Codes::low));
  }
  Float size = splat(0.0f), importance = splat(0.0f);
  for (int k = 0; k < N; ++k) {
    size += h[k] * magnitude(x[k]);
    importance += h[k];
  }
  const Float bell = quotient_or_zero(0.7f * importance, size);
  try_inverse(bell);
  if constexpr (-Codes::low != Codes::high) try_inverse(splat(0.0f) - bell);
  const int refinements = effort == Effort::best ? 3 : 2;
  RAQ_ROLLED
  for (int round = 0; round < refinements; ++round) try_inverse(inverse_or_zero(best.scale));
  return store_scale(-Codes::low == Codes::high ? magnitude(best.scale) : best.scale, unit);
}

struct TQ1_0 {
  static constexpr int weights = 256, bytes = 54;
  static constexpr int sub_block = 32, first_code_byte = 0, code_bytes = 52;
  using Levels = Whole<-1, 1>;

  // Calls use(byte, place of the trit, weight) for every weight.
  template <class Use>
  RAQ_INLINE static void for_each_trit(Use use) {
    for (int k = 0; k < 160; ++k) use(k % 32, k / 32, k);
    for (int k = 0; k < 80; ++k) use(32 + k % 16, k / 16, 160 + k);
    for (int k = 0; k < 16; ++k) use(48 + k % 4, k / 4, 240 + k);
  }
  RAQ_INLINE static constexpr int power_of_3(int n) {
    constexpr int table[5] = {1, 3, 9, 27, 81};
    return table[n];
  }

  RAQ_NOINLINE static void quantize(const Float* x, const Float* h, Unit unit, Effort effort,
                                    Bytes<bytes>& block) {
    const StoredScale d = fit_few_codes<Levels, weights>(x, h, unit, effort);
    const Float inverse = inverse_or_zero(d.value);
    Int codes[weights];
    for (int k = 0; k < weights; ++k) codes[k] = code_of(Levels::round(x[k] * inverse));
    block.clear();
    put_codes(block, codes);
    block.put_pair(52, d.bits);
  }

  RAQ_INLINE static Int code_of(Float level) { return truncate(level) + 1; }
  RAQ_INLINE static Scales scales(const Bytes<bytes>& block, int) {
    return {half_to_float(block.get_pair(52)), splat(0.0f)};
  }
  RAQ_HD static void put_codes(Bytes<bytes>& block, const Int* codes) {
    Int sums[52];
    for (int i = 0; i < 52; ++i) sums[i] = splat(0);
    for_each_trit([&](int byte, int place, int k) { sums[byte] += codes[k] * power_of_3(4 - place); });
    // ceil(256 v / 243) without a division, which no vector unit has: 4316 / 2^20 is a little over 1 / 243,
    // and the result is exact for every v up to 242.
    for (int i = 0; i < 52; ++i) block.put(i, ((sums[i] * 256 + 242) * 4316) >> 20);
  }

  RAQ_HD static void dequantize(const Bytes<bytes>& block, Float* x) {
    const Float d = half_to_float(block.get_pair(52));
    for_each_trit([&](int byte, int place, int k) {
      const Int rest = (block.get(byte) * power_of_3(place)) & 0xff;
      x[k] = d * to_float(((rest * 3) >> 8) - 1);
    });
  }
};

struct TQ2_0 {
  static constexpr int weights = 256, bytes = 66;
  static constexpr int sub_block = 32, first_code_byte = 0, code_bytes = 64;
  using Levels = Whole<-1, 1>;

  RAQ_NOINLINE static void quantize(const Float* x, const Float* h, Unit unit, Effort effort,
                                    Bytes<bytes>& block) {
    const StoredScale d = fit_few_codes<Levels, weights>(x, h, unit, effort);
    const Float inverse = inverse_or_zero(d.value);
    Int codes[weights];
    for (int k = 0; k < weights; ++k) codes[k] = code_of(Levels::round(x[k] * inverse));
    block.clear();
    put_codes(block, codes);
    block.put_pair(64, d.bits);
  }

  RAQ_INLINE static Int code_of(Float level) { return truncate(level) + 1; }
  RAQ_INLINE static void put_codes(Bytes<bytes>& block, const Int* codes) { put_bit_pairs(block, 0, codes); }
  RAQ_INLINE static Scales scales(const Bytes<bytes>& block, int) {
    return {half_to_float(block.get_pair(64)), splat(0.0f)};
  }

  RAQ_HD static void dequantize(const Bytes<bytes>& block, Float* x) {
    const Float d = half_to_float(block.get_pair(64));
    for (int k = 0; k < weights; ++k) x[k] = d * to_float(get_bit_pair(block, 0, k) - 1);
  }
};

// The numbers 1 and -1.
struct SignLevels {
  RAQ_INLINE static Float round(Float position) {
    return select(position < splat(0.0f), splat(-1.0f), splat(1.0f));
  }
};

struct Q1_0 {
  static constexpr int weights = 128, bytes = 18;
  static constexpr int sub_block = 32, first_code_byte = 2, code_bytes = 16;
  using Levels = SignLevels;

  RAQ_NOINLINE static void quantize(const Float* x, const Float* h, Unit unit, Effort, Bytes<bytes>& block) {
    Float sum = splat(0.0f), importance = splat(0.0f);
    for (int k = 0; k < weights; ++k) {
      sum += h[k] * magnitude(x[k]);
      importance += h[k];
    }
    block.clear();
    block.put_pair(0, store_scale(quotient_or_zero(sum, importance), unit).bits);
    Int codes[weights];
    for (int k = 0; k < weights; ++k) codes[k] = code_of(x[k]);
    put_codes(block, codes);
  }

  RAQ_INLINE static Int code_of(Float level) { return select(level < splat(0.0f), splat(0), splat(1)); }
  RAQ_INLINE static void put_codes(Bytes<bytes>& block, const Int* codes) {
    for (int k = 0; k < weights; ++k) block.put(2 + k / 8, codes[k] << (k % 8));
  }
  RAQ_INLINE static Scales scales(const Bytes<bytes>& block, int) {
    return {half_to_float(block.get_pair(0)), splat(0.0f)};
  }

  RAQ_HD static void dequantize(const Bytes<bytes>& block, Float* x) {
    const Float d = half_to_float(block.get_pair(0));
    for (int k = 0; k < weights; ++k)
      x[k] = select(((block.get(2 + k / 8) >> (k % 8)) & 1) == splat(1), d, splat(0.0f) - d);
  }
};

struct Q2_0 {
  static constexpr int weights = 64, bytes = 18;
  static constexpr int sub_block = 32, first_code_byte = 2, code_bytes = 16;
  using Levels = Whole<-1, 2>;

  RAQ_NOINLINE static void quantize(const Float* x, const Float* h, Unit unit, Effort effort,
                                    Bytes<bytes>& block) {
    const StoredScale d = fit_few_codes<Levels, weights>(x, h, unit, effort);
    const Float inverse = inverse_or_zero(d.value);
    Int codes[weights];
    for (int k = 0; k < weights; ++k) codes[k] = code_of(Levels::round(x[k] * inverse));
    block.clear();
    block.put_pair(0, d.bits);
    put_codes(block, codes);
  }

  RAQ_INLINE static Int code_of(Float level) { return truncate(level) + 1; }
  RAQ_INLINE static void put_codes(Bytes<bytes>& block, const Int* codes) {
    for (int k = 0; k < weights; ++k) block.put(2 + k / 4, codes[k] << (2 * (k % 4)));
  }
  RAQ_INLINE static Scales scales(const Bytes<bytes>& block, int) {
    return {half_to_float(block.get_pair(0)), splat(0.0f)};
  }

  RAQ_HD static void dequantize(const Bytes<bytes>& block, Float* x) {
    const Float d = half_to_float(block.get_pair(0));
    for (int k = 0; k < weights; ++k) x[k] = d * to_float(((block.get(2 + k / 4) >> (2 * (k % 4))) & 3) - 1);
  }
};

}  // namespace raq::RAQ_LEVEL
