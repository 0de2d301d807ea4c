// Groups of 16 rows beside each other: what error feedback (both_sides.cpp) and the choice of codes (refine.cpp) share.
//
// A group's numbers are stored column after column, 16 for its rows: lanes are rows. What its columns are multiplied
// with, a matrix of many rows, is packed in strips of 8 columns, a strip row after row: so it is read from one end to
// the other, once for a group. Products are added to a sum one by one, in the order of the strips' rows, whatever the
// loops below do together: neither lanes nor the sizes of loops change a bit.
#pragma once

#include "common/portable.hpp"
#include "common/transpose.hpp"
#include "cpu/kernels.hpp"

namespace raq::RAQ_LEVEL {

constexpr int strip = groups::strip;
constexpr int group_tiles = groups::rows / lanes;  // vectors of a column
static_assert(groups::rows % lanes == 0);

// A factor of many columns does not stay in the cache, and is read faster than the processor fetches by itself: its rows
// are asked for this many ahead, which is the next strip of `near` rows.
constexpr int ahead = 256;

// sums[k] -= of_rows[j] * factor[j * strip + k], or +=, for every k below `strip` and j below `depth` in order. Sums and
// `of_rows` have `tiles` vectors each: as many of them, and of the columns, are worked on together as registers hold.
template <bool subtracted, int tiles>
RAQ_INLINE void add_products(Float* sums, const Float* of_rows, int depth, const float* factor) {
  constexpr int side = tiles < 2 ? tiles : 2, wide = RAQ_LANES == 16 ? 8 : 4;
  static_assert(tiles % side == 0 && strip % wide == 0);
  for (int column = 0; column < strip; column += wide)
    for (int tile = 0; tile < tiles; tile += side) {
      Float sum[wide][side];
      Float* const place = sums + column * tiles + tile;
#pragma GCC unroll 8
      for (int k = 0; k < wide; ++k)
#pragma GCC unroll 2
        for (int t = 0; t < side; ++t) sum[k][t] = place[k * tiles + t];
      for (int j = 0; j < depth; ++j) {
        if (column == 0 && tile == 0) __builtin_prefetch(factor + (j + ahead) * strip, 0, 2);
#pragma GCC unroll 8
        for (int k = 0; k < wide; ++k)
#pragma GCC unroll 2
          for (int t = 0; t < side; ++t) {
            const Float product = of_rows[j * tiles + tile + t] * factor[j * strip + column + k];
            sum[k][t] = subtracted ? sum[k][t] - product : sum[k][t] + product;
          }
      }
#pragma GCC unroll 8
      for (int k = 0; k < wide; ++k)
#pragma GCC unroll 2
        for (int t = 0; t < side; ++t) place[k * tiles + t] = sum[k][t];
    }
}

// Packs `depth` rows of a matrix, `stride` apart, in strips of `between` rows.
RAQ_INLINE void pack_strips(const float* from, std::int64_t stride, std::int64_t depth, std::int64_t columns,
                            float* strips, std::int64_t between) {
  for (std::int64_t column = 0; column < columns; column += strip)
    for (std::int64_t j = 0; j < depth; ++j)
      memcpy(strips + column * between + j * strip, from + j * stride + column, strip * sizeof(float));
}

namespace grouping {

constexpr int near = 256;  // terms whose part of a strip and of the group stay in the cache
constexpr int panel = 32;  // columns that are transposed together

template <bool subtracted>
inline void add(float* sums, std::int64_t columns, const float* of_rows, std::int64_t depth,
                const float* strips, std::int64_t between) {
  for (std::int64_t first = 0; first < depth; first += near) {
    const int count = static_cast<int>(depth - first < near ? depth - first : near);
    for (std::int64_t column = 0; column < columns; column += strip)
      add_products<subtracted, group_tiles>(reinterpret_cast<Float*>(sums + column * groups::rows),
                                            reinterpret_cast<const Float*>(of_rows + first * groups::rows),
                                            count, strips + column * between + first * strip);
  }
}

inline void pack(const float* from, std::int64_t stride, std::int64_t depth, std::int64_t columns,
                 float* strips) {
  pack_strips(from, stride, depth, columns, strips, depth);
}

inline void load(const float* from, std::int64_t count, std::int64_t stride, std::int64_t columns,
                 float* group) {
  for (int t = 0; t < group_tiles; ++t)
    for (std::int64_t k = 0; k < columns; k += panel) {
      const std::int64_t left = count - t * lanes;
      const float* source[lanes];
      for (int i = 0; i < lanes; ++i) source[i] = from + (t * lanes + i) * stride + k;
      Float turned[panel];
      turn<panel>(source, static_cast<int>(left < 0 ? 0 : left < lanes ? left : lanes), turned);
      for (int i = 0; i < panel; ++i)
        memcpy(group + (k + i) * groups::rows + t * lanes, &turned[i], sizeof(Float));
    }
}

// X with U_gg^T X = target - restored, by forward substitution, into its place in strips of later rows.
inline void substitute(const float* target, const float* restored, std::int64_t columns, const float* factor,
                       std::int64_t stride, float* strips, std::int64_t between) {
  constexpr int vectors = panel / lanes;
  for (std::int64_t first = 0; first < columns; first += panel) {
    Float left[groups::rows][vectors];
    for (int t = 0; t < group_tiles; ++t) {
      Float errors[panel];
      for (int k = 0; k < panel; ++k) {
        const std::int64_t place = (first + k) * groups::rows + t * lanes;
        Float value;
        memcpy(&errors[k], target + place, sizeof(Float));
        memcpy(&value, restored + place, sizeof(Float));
        errors[k] -= value;
      }
      turn_back<panel>(errors, lanes, reinterpret_cast<float*>(left[t * lanes]));
    }
    for (int k = 0; k < groups::rows; ++k) {
      for (int i = 0; i < k; ++i)
        for (int v = 0; v < vectors; ++v) left[k][v] -= factor[i * stride + k] * left[i][v];
      for (int v = 0; v < vectors; ++v) left[k][v] /= splat(factor[k * stride + k]);
    }
    pack_strips(reinterpret_cast<const float*>(left), panel, groups::rows, panel, strips + first * between,
                between);
  }
}

// Where rows say something else than before: `values` become these, and the products of the changes with `gram` are
// added to the rows' strips, in the order of columns. `places` and `changes` have room for `length` numbers.
inline void change(const float* now, float* values, std::int64_t count, std::int64_t length,
                   const float* gram, float* strips, std::int64_t between, std::int32_t* places,
                   float* changes) {
  typedef float Part __attribute__((vector_size(strip * sizeof(float))));
  constexpr int parts = panel / strip;
  for (std::int64_t row = 0; row < count; ++row) {
    int found = 0;
    for (std::int64_t j = 0; j < length; ++j) {
      const float difference = now[row * length + j] - values[row * length + j];
      places[found] = static_cast<std::int32_t>(j);
      changes[found] = difference;
      found += difference != 0;
    }
    for (int i = 0; i < found; ++i) values[row * length + places[i]] = now[row * length + places[i]];
    if (found == 0) continue;
    for (std::int64_t k = 0; k < length; k += panel) {
      float* const out = strips + k * between + row * strip;
      Part sum[parts];
      for (int p = 0; p < parts; ++p) memcpy(&sum[p], out + p * strip * between, sizeof(Part));
      for (int i = 0; i < found; ++i) {
        const float* const of_column = gram + places[i] * length + k;
        for (int p = 0; p < parts; ++p) {
          Part values_of;
          memcpy(&values_of, of_column + p * strip, sizeof(Part));
          sum[p] += changes[i] * values_of;
        }
      }
      for (int p = 0; p < parts; ++p) memcpy(out + p * strip * between, &sum[p], sizeof(Part));
    }
  }
}

}  // namespace grouping
}  // namespace raq::RAQ_LEVEL
