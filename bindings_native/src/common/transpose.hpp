// Transposition: from rows in memory, one per lane, to Floats that hold one number of every row, and back.
#pragma once

#include <utility>

#include "common/portable.hpp"

namespace raq::RAQ_LEVEL {

#if RAQ_LANES > 1 && defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define RAQ_SHUFFLES
#endif
#endif

#if defined(RAQ_SHUFFLES)
// One step of a transposition by halves. Rows `a` and `b` of a square are `step` apart. In each pair of
// groups of `step` lanes, the upper group of `a` is exchanged with the lower group of `b`.
template <int step, int... place>
RAQ_INLINE void exchange(Float& a, Float& b, std::integer_sequence<int, place...>) {
  const Float low = __builtin_shufflevector(a, b, ((place & step) != 0 ? lanes + place - step : place)...);
  b = __builtin_shufflevector(a, b, ((place & step) != 0 ? lanes + place : place + step)...);
  a = low;
}

template <int step>
RAQ_INLINE void transpose_from(Float* square) {
  if constexpr (step < lanes) {
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i)
      if ((i & step) == 0)
        exchange<step>(square[i], square[i + step], std::make_integer_sequence<int, lanes>{});
    transpose_from<2 * step>(square);
  }
}
#endif

// Sets lane i of values[k] to rows[i][k] for i below `count`, else to 0. K is 1 or a multiple of the lanes.
template <int K>
RAQ_INLINE void turn(const float* const* rows, int count, Float* values) {
  if (count < lanes) {
    RAQ_UNROLL
    for (int k = 0; k < K; ++k) values[k] = splat(0.0f);
    for (int i = 0; i < count; ++i) RAQ_UNROLL
    for (int k = 0; k < K; ++k) lane(values[k], i) = rows[i][k];
    return;
  }
#if defined(RAQ_SHUFFLES)
  if constexpr (K % lanes == 0) {
    for (int k = 0; k < K; k += lanes) {
      Float square[lanes];
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i) memcpy(&square[i], rows[i] + k, sizeof(Float));
      transpose_from<1>(square);
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i) values[k + i] = square[i];
    }
    return;
  }
#endif
  for (int i = 0; i < lanes; ++i) RAQ_UNROLL
  for (int k = 0; k < K; ++k) lane(values[k], i) = rows[i][k];
}

// The inverse, to `count` rows that follow each other in memory.
template <int K>
RAQ_INLINE void turn_back(const Float* values, int count, float* out) {
#if defined(RAQ_SHUFFLES)
  if constexpr (K % lanes == 0) {
    if (count == lanes) {
      for (int k = 0; k < K; k += lanes) {
        Float square[lanes];
#pragma GCC unroll 16
        for (int i = 0; i < lanes; ++i) square[i] = values[k + i];
        transpose_from<1>(square);
#pragma GCC unroll 16
        for (int i = 0; i < lanes; ++i) memcpy(out + i * K + k, &square[i], sizeof(Float));
      }
      return;
    }
  }
#endif
  for (int i = 0; i < count; ++i) RAQ_UNROLL
  for (int k = 0; k < K; ++k) out[i * K + k] = reinterpret_cast<const float*>(values + k)[i];
}

}  // namespace raq::RAQ_LEVEL
