// IEEE 754 binary16 and bfloat16, to and from binary32, by integer arithmetic: the same bits on every target.
//
// Both roundings are to nearest, ties to even, and both SATURATE: a finite weight never becomes an infinity,
// because one infinite scale makes a whole block unusable (llama.cpp refuses such a row).
#pragma once

#include "common/portable.hpp"

namespace raq::RAQ_LEVEL {

RAQ_INLINE Int half_from_float(Float value) {
  const Int bits = float_bits(value);
  const Int sign = (bits >> 16) & 0x8000;
  const Int size = bits & 0x7fffffff;
  // 65519.99 is the last value that rounds to 65504; everything from there on is held at it.
  const Int bounded = select(size > splat(0x477fefff), splat(0x477fe000), size);
  const Int normal = (bounded - 0x38000000 + 0xfff + ((bounded >> 13) & 1)) >> 13;
  // Below 2^-14 a half counts in steps of 2^-24, which is the unit in the last place of a float in [0.5, 1).
  const Int subnormal = float_bits(float_of_bits(bounded) + 0.5f) - 0x3f000000;
  return sign | select(bounded < splat(0x38800000), subnormal, normal);
}

RAQ_INLINE Float half_to_float(Int half) {
  const Int sign = (half & 0x8000) << 16;
  const Int exponent = half & 0x7c00;
  const Int normal = ((half & 0x7fff) << 13) + 0x38000000;
  const Int special = ((half & 0x7fff) << 13) | 0x7f800000;
  const Int subnormal = float_bits(to_float(half & 0x3ff) * 0x1p-24f);
  const Int size = select(exponent == splat(0x7c00), special, normal);
  return float_of_bits(sign | select(exponent == splat(0), subnormal, size));
}

RAQ_INLINE Int bfloat_from_float(Float value) {
  const Int bits = float_bits(value);
  const Int size = bits & 0x7fffffff;
  const Int bounded = select(size > splat(0x7f7f7fff), splat(0x7f7f0000), size);
  const Int rounded = (bounded + 0x7fff + ((bounded >> 16) & 1)) >> 16;
  return ((bits >> 16) & 0x8000) | rounded;
}

RAQ_INLINE Float bfloat_to_float(Int bits) { return float_of_bits(bits << 16); }

// A power of two and its inverse. Blocks are searched with their largest weight in [1, 2), so that no square
// in a search overflows or underflows; dividing by a power of two is exact.
struct Unit {
  Float scale;
  Float inverse;
};

RAQ_INLINE Unit unit_of(Float largest) {
  Int exponent = (float_bits(largest) >> 23) & 0xff;
  exponent = select(exponent < splat(27), splat(27), exponent);
  exponent = select(exponent > splat(227), splat(227), exponent);
  return {float_of_bits(exponent << 23), float_of_bits((254 - exponent) << 23)};
}

// A stored scale: the bits of the half, and its value in the block's unit.
struct StoredScale {
  Int bits;
  Float value;
};

RAQ_INLINE StoredScale store_scale(Float scale, Unit unit) {
  const Int bits = half_from_float(scale * unit.scale);
  return {bits, half_to_float(bits) * unit.inverse};
}

}  // namespace raq::RAQ_LEVEL
