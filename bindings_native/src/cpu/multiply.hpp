// Products of matrices in float, each sum in the order of its terms: neither lanes nor threads change a bit.
#pragma once

#include "common/portable.hpp"
#include "cpu/kernels.hpp"

namespace raq::RAQ_LEVEL::multiplying {

constexpr int vectors = 2, wide = vectors * lanes;  // columns of a tile; as many rows as registers hold
constexpr int high = RAQ_LANES == 16 ? 8 : 4, deep = 128;
static_assert(multiply::column_step % wide == 0);

// Adds to `rows_here` rows of `out`: a strip of columns, `count` terms of each sum. `strip` has these terms of b.
template <int rows_here>
RAQ_INLINE void add_terms(const Product& of, std::int64_t row, std::int64_t column, std::int64_t first,
                          std::int64_t count, const Float* strip) {
  Float sum[rows_here][vectors];
  float* out = of.out + row * of.columns + column;
#pragma GCC unroll 8
  for (int i = 0; i < rows_here; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v)
      if (first == 0)
        sum[i][v] = splat(0.0f);
      else
        memcpy(&sum[i][v], out + i * of.columns + v * lanes, sizeof(Float));
  const float* a = of.a + row * of.depth + first;
  for (std::int64_t k = 0; k < count; ++k)
#pragma GCC unroll 8
    for (int i = 0; i < rows_here; ++i) {
      const float times = a[i * of.depth + k];
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) sum[i][v] += times * strip[k * vectors + v];
    }
#pragma GCC unroll 8
  for (int i = 0; i < rows_here; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) memcpy(out + i * of.columns + v * lanes, &sum[i][v], sizeof(Float));
}

inline void multiply(const Product& of, std::int64_t from, std::int64_t to) {
  Float strip[deep * vectors];
  for (std::int64_t column = from; column < to; column += wide)
    for (std::int64_t first = 0; first < of.depth; first += deep) {
      const std::int64_t count = of.depth - first < deep ? of.depth - first : deep;
      for (std::int64_t k = 0; k < count; ++k)
        memcpy(strip + k * vectors, of.b + (first + k) * of.columns + column, vectors * sizeof(Float));
      std::int64_t row = 0;
      for (; row + high <= of.rows; row += high) add_terms<high>(of, row, column, first, count, strip);
      for (; row < of.rows; ++row) add_terms<1>(of, row, column, first, count, strip);
    }
}

}  // namespace raq::RAQ_LEVEL::multiplying
