// F32, F16, BF16: every weight is stored by itself, whatever its importance; 32, 16 and 16 bits per weight.
//
// A weight beyond the largest finite value of the type is stored as that value (half.hpp says why).
#pragma once

#include "common/half.hpp"
#include "effort.hpp"

namespace raq::RAQ_LEVEL {

struct F32 {
  static constexpr int weights = 1, bytes = 4;
  RAQ_INLINE static void quantize(const Float* x, const Float*, Unit, Effort, Bytes<bytes>& block) {
    block.word[0] = float_bits(x[0]);
  }
  RAQ_INLINE static void dequantize(const Bytes<bytes>& block, Float* x) {
    x[0] = float_of_bits(block.word[0]);
  }
};

struct F16 {
  static constexpr int weights = 1, bytes = 2;
  RAQ_INLINE static void quantize(const Float* x, const Float*, Unit, Effort, Bytes<bytes>& block) {
    block.word[0] = half_from_float(x[0]);
  }
  RAQ_INLINE static void dequantize(const Bytes<bytes>& block, Float* x) {
    x[0] = half_to_float(block.word[0] & 0xffff);
  }
};

struct BF16 {
  static constexpr int weights = 1, bytes = 2;
  RAQ_INLINE static void quantize(const Float* x, const Float*, Unit, Effort, Bytes<bytes>& block) {
    block.word[0] = bfloat_from_float(x[0]);
  }
  RAQ_INLINE static void dequantize(const Bytes<bytes>& block, Float* x) {
    x[0] = bfloat_to_float(block.word[0]);
  }
};

}  // namespace raq::RAQ_LEVEL
