// A tile: RAQ_LANES blocks, transposed so that lane i of the k-th Float is weight k of block i.
#pragma once

#include "common/half.hpp"
#include "common/transpose.hpp"
#include "rows.hpp"

namespace raq::RAQ_LEVEL {

template <int K>
struct Tile {
  Float weights[K];
  Float importance[K];
  Unit unit;              // weights[k] * unit.scale is the weight itself
  Int top;                // bits of the largest magnitude, before dividing by the unit
  Float importance_unit;  // the same for importance; 0 where that of a whole block is zero

  // Consecutive blocks. Rows are complete, so block number b of them begins at weight b * K; its importance
  // begins at column (b * K) % row length. Missing lanes of the last tile are zero.
  RAQ_HD void load(const Rows& rows, std::int64_t block, int count) {
    const float* source[lanes];
    for (int i = 0; i < lanes; ++i) source[i] = rows.weights + (block + i) * K;
    turn<K>(source, count, weights);
    divide_weights();
    load_importance(rows, block, count);
  }

  // The same columns of several rows. Weight k of them is turned[k * stride], its importance of_columns[k].
  RAQ_HD void load_columns(const Float* turned, int stride, const float* of_columns) {
    for (int k = 0; k < K; ++k) weights[k] = turned[k * stride];
    divide_weights();
    for (int k = 0; k < K; ++k) importance[k] = splat(of_columns[k]);
    divide_importance();
  }

 private:
  bool alike = false;  // `importance` already holds ones, from the tile before

  RAQ_HD void divide_weights() {
    unit = {splat(1.0f), splat(1.0f)};
    if constexpr (K == 1) return;  // not searched: nothing can overflow
    top = splat(0);
    RAQ_UNROLL
    for (int k = 0; k < K; ++k) {
      const Int size = float_bits(weights[k]) & 0x7fffffff;
      top = select(size > top, size, top);
    }
    unit = unit_of(float_of_bits(top));
    RAQ_UNROLL
    for (int k = 0; k < K; ++k) weights[k] *= unit.inverse;
  }

  RAQ_HD void load_importance(const Rows& rows, std::int64_t block, int count) {
    if (rows.importance == nullptr) {
      if (!alike) RAQ_UNROLL
      for (int k = 0; k < K; ++k) importance[k] = splat(1.0f);
      importance_unit = splat(1.0f);
      alike = true;
      return;
    }
    const std::int64_t blocks_per_row = rows.length / K;
    const float* columns[lanes];
    for (int i = 0; i < lanes; ++i)
      columns[i] = rows.importance + (block + (i < count ? i : 0)) % blocks_per_row * K;
    turn<K>(columns, count, importance);
    divide_importance();
  }

  RAQ_HD void divide_importance() {
    Float most = splat(0.0f);
    RAQ_UNROLL
    for (int k = 0; k < K; ++k) most = larger(importance[k], most);
    const Unit important = unit_of(most);
    const Mask known = most > splat(0.0f);
    importance_unit = select(known, important.scale, splat(0.0f));
    RAQ_UNROLL
    for (int k = 0; k < K; ++k) importance[k] = select(known, importance[k] * important.inverse, splat(1.0f));
    alike = false;
  }
};

// The ErrorSums of each lane's block, added up in double precision, weight after weight.
struct LaneErrors {
  double weighted_squared_error[lanes], weighted_energy[lanes];
};

template <int K>
RAQ_HD LaneErrors errors_of(const Tile<K>& tile, const Float* restored) {
  LaneErrors sums{};
  const float* unit = reinterpret_cast<const float*>(&tile.unit.scale);
  const float* importance_unit = reinterpret_cast<const float*>(&tile.importance_unit);
  RAQ_UNROLL
  for (int k = 0; k < K; ++k) {
    const float* weights = reinterpret_cast<const float*>(tile.weights + k);
    const float* importance = reinterpret_cast<const float*>(tile.importance + k);
    const float* values = reinterpret_cast<const float*>(restored + k);
    for (int i = 0; i < lanes; ++i) {
      const double w = static_cast<double>(weights[i]) * unit[i], r = values[i];
      const double h = static_cast<double>(importance[i]) * importance_unit[i];
      const double difference = w - r;
      sums.weighted_squared_error[i] += h * (difference * difference);
      sums.weighted_energy[i] += h * (w * w);
    }
  }
  return sums;
}

// `stride` is the distance of the blocks in memory, in bytes.
template <int Count>
RAQ_HD void store_blocks(const Bytes<Count>& block, int count, std::uint8_t* out,
                         std::int64_t stride = Count) {
  constexpr int words = Bytes<Count>::words;
  for (int i = 0; i < count; ++i) {
    std::int32_t row[words];
    for (int w = 0; w < words; ++w) row[w] = reinterpret_cast<const std::int32_t*>(&block.word[w])[i];
    memcpy(out + i * stride, row, Count);
  }
}

template <int Count>
RAQ_HD void load_blocks(Bytes<Count>& block, int count, const std::uint8_t* in, std::int64_t stride = Count) {
  constexpr int words = Bytes<Count>::words;
  block.clear();
  for (int i = 0; i < count; ++i) {
    std::int32_t row[words] = {};
    memcpy(row, in + i * stride, Count);
    for (int w = 0; w < words; ++w) lane(block.word[w], i) = row[w];
  }
}

}  // namespace raq::RAQ_LEVEL
