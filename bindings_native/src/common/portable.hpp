// One source for every target: what differs between an x86 level, another CPU and a GPU.
//
// A format is written for ONE block. `Float` and `Int` hold a value of each of RAQ_LANES independent blocks:
// on a CPU a vector register's worth, on a GPU (RAQ_LANES = 1) that of one thread.
//
// Rules that keep bytes equal everywhere:
// - lanes are independent: no operation here reads another lane, so the number of lanes changes no result;
// - only +, -, *, /, sqrt, comparison and integer operations, each correctly rounded by IEEE 754, never
//   contracted (-ffp-contract=off, --fmad=false) and never reordered (no -ffast-math);
// - no branch on a value: `select` computes both sides.
//
// RAQ_LEVEL names the target, and everything here is in a namespace of that name: otherwise the linker could
// give an older processor a function that was compiled for a newer one.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE__) && !defined(__CUDACC__)
#include <immintrin.h>
#endif

#if defined(__CUDACC__)
#define RAQ_HD __device__
#define RAQ_INLINE __device__ __forceinline__
#define RAQ_NOINLINE __device__ __noinline__
#define RAQ_INLINED  // of a lambda
// Loops over the weights of a block: unrolled whole, as by default, stacks grow and
// registers spill (docs/native.md).
#define RAQ_UNROLL _Pragma("unroll 8")
// Outer loops: a copy of the body for each step costs minutes of compiling.
#define RAQ_ROLLED _Pragma("unroll 1")
#else
#define RAQ_HD inline
#define RAQ_INLINE inline __attribute__((always_inline))
#define RAQ_NOINLINE __attribute__((noinline))
#define RAQ_INLINED __attribute__((always_inline))
#define RAQ_UNROLL
#define RAQ_ROLLED
#endif

namespace raq::RAQ_LEVEL {

constexpr int lanes = RAQ_LANES;

#if RAQ_LANES == 1
using Float = float;
using Int = std::int32_t;
using Mask = bool;
RAQ_INLINE Int float_bits(Float value) {
  Int bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}
RAQ_INLINE Float float_of_bits(Int bits) {
  Float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
RAQ_INLINE Float to_float(Int value) { return static_cast<Float>(value); }
RAQ_INLINE Int truncate(Float value) { return static_cast<Int>(value); }
RAQ_INLINE float& lane(Float& value, int) { return value; }
RAQ_INLINE std::int32_t& lane(Int& value, int) { return value; }
#else
typedef float Float __attribute__((vector_size(4 * RAQ_LANES)));
typedef std::int32_t Int __attribute__((vector_size(4 * RAQ_LANES)));
using Mask = Int;
RAQ_INLINE Int float_bits(Float value) { return (Int)value; }
RAQ_INLINE Float float_of_bits(Int bits) { return (Float)bits; }
RAQ_INLINE Float to_float(Int value) { return __builtin_convertvector(value, Float); }
RAQ_INLINE Int truncate(Float value) { return __builtin_convertvector(value, Int); }
RAQ_INLINE float& lane(Float& value, int index) { return reinterpret_cast<float*>(&value)[index]; }
RAQ_INLINE std::int32_t& lane(Int& value, int index) {
  return reinterpret_cast<std::int32_t*>(&value)[index];
}
#endif

RAQ_INLINE Float splat(float value) { return Float{} + value; }
RAQ_INLINE Int splat(std::int32_t value) { return Int{} + value; }

RAQ_INLINE Float select(Mask mask, Float yes, Float no) { return mask ? yes : no; }
RAQ_INLINE Int select(Mask mask, Int yes, Int no) { return mask ? yes : no; }

// A NaN in `a` gives `b`, so a clamped value is always a number and converts to the same
// integer on every target. The instructions named here do exactly that, but compilers do not
// choose them for the expression below.
#if defined(__AVX512F__) && RAQ_LANES == 16
RAQ_INLINE Float smaller(Float a, Float b) { return _mm512_min_ps(a, b); }
RAQ_INLINE Float larger(Float a, Float b) { return _mm512_max_ps(a, b); }
RAQ_INLINE Float root(Float value) { return _mm512_sqrt_ps(value); }
#elif defined(__AVX__) && RAQ_LANES == 8
RAQ_INLINE Float smaller(Float a, Float b) { return _mm256_min_ps(a, b); }
RAQ_INLINE Float larger(Float a, Float b) { return _mm256_max_ps(a, b); }
RAQ_INLINE Float root(Float value) { return _mm256_sqrt_ps(value); }
#elif defined(__SSE__) && RAQ_LANES == 4
RAQ_INLINE Float smaller(Float a, Float b) { return _mm_min_ps(a, b); }
RAQ_INLINE Float larger(Float a, Float b) { return _mm_max_ps(a, b); }
RAQ_INLINE Float root(Float value) { return _mm_sqrt_ps(value); }
#else
RAQ_INLINE Float smaller(Float a, Float b) { return a < b ? a : b; }
RAQ_INLINE Float larger(Float a, Float b) { return a > b ? a : b; }
RAQ_INLINE Float root(Float value) {
#if defined(__CUDACC__)
  return sqrtf(value);
#else
  for (int i = 0; i < lanes; ++i) lane(value, i) = __builtin_sqrtf(lane(value, i));
  return value;
#endif
}
#endif
RAQ_INLINE Float clamp(Float value, float low, float high) {
  return smaller(larger(value, splat(low)), splat(high));
}
RAQ_INLINE Float magnitude(Float value) { return float_of_bits(float_bits(value) & 0x7fffffff); }

// Nearest whole number, ties to even. Exact for |value| < 2^22: at 1.5 * 2^23 the unit in
// the last place is 1.
RAQ_INLINE Float nearest(Float value) { return (value + 12582912.0f) - 12582912.0f; }

RAQ_INLINE Float inverse_or_zero(Float value) {
  const Float zero = splat(0.0f);
  const Mask usable = magnitude(value) > zero;
  return select(usable, splat(1.0f) / select(usable, value, splat(1.0f)), zero);
}
RAQ_INLINE Float quotient_or_zero(Float numerator, Float denominator) {
  const Float zero = splat(0.0f);
  const Mask usable = denominator > zero;
  return select(usable, numerator / select(usable, denominator, splat(1.0f)), zero);
}

// The bytes of one block per lane, as little-endian 32-bit words.
template <int Count>
struct Bytes {
  static constexpr int count = Count;
  static constexpr int words = (Count + 3) / 4;
  Int word[words];

  RAQ_INLINE void clear() {
    for (int i = 0; i < words; ++i) word[i] = splat(0);
  }
  // The `bits` of some bytes.
  RAQ_INLINE void clear(int first, int number, int bits = 0xff) {
    for (int i = first; i < first + number; ++i) word[i / 4] &= splat(~(bits << (8 * (i % 4))));
  }
  // Both `put`s expect the place to be clear and `value` to have no bits above the byte or pair of bytes.
  RAQ_INLINE void put(int index, Int value) { word[index / 4] |= value << (8 * (index % 4)); }
  RAQ_INLINE void put_pair(int index, Int value) { word[index / 4] |= value << (8 * (index % 4)); }
  RAQ_INLINE Int get(int index) const { return (word[index / 4] >> (8 * (index % 4))) & 0xff; }
  RAQ_INLINE Int get_signed(int index) const { return (get(index) ^ 0x80) - 0x80; }
  RAQ_INLINE Int get_pair(int index) const { return (word[index / 4] >> (8 * (index % 4))) & 0xffff; }
};

}  // namespace raq::RAQ_LEVEL
