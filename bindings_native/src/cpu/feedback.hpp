// Rounding with error feedback: the error that rounding a column makes in a product with the inputs is
// subtracted from the columns after it.
//
// With H the mean of x x^T over the inputs x and H^-1 = U^T U, U upper triangular, rounding the weight of
// column j with an error e = (w - q) / U_jj and subtracting e U_jk from the weights of all columns k > j
// leaves the least squared error of the outputs that the later columns can reach (Frantar and others, GPTQ,
// arXiv 2210.17323). Scales of a block are searched on its weights as they have become, with importance
// 1 / U_jj^2.
//
// Codebook formats choose the vectors of 4 or 8 columns at once, by the same importance, and then feed their
// errors forward. Choosing by the full quadratic form of such a group was tried: it gains nothing.
//
// Lanes are rows here, not blocks: every step is the same for all rows and needs no sum over lanes. Errors
// are subtracted from a weight one by one, in the order of their columns, whatever the loops below do
// together. So neither lanes nor threads nor the sizes of these loops change a bit.
#pragma once

#include "common/feedback_blocks.hpp"
#include "cpu/kernels.hpp"
#include "formats/all.hpp"

namespace raq::RAQ_LEVEL {

constexpr int together = 2;  // tiles of rows worked on at once: while one waits, the other computes
constexpr int panel = 32;    // columns that get each other's errors one by one
constexpr int span = feedback::span, strip = feedback::strip, corner_stride = feedback::corner_stride;
static_assert(span % panel == 0 && span % strip == 0 && panel % strip == 0);
constexpr int width = RAQ_LANES == 16 ? 8 : 4;  // columns whose weights are kept in registers

// Subtracts errors[j] * factor[j][k] from weights[k], for every j below `depth` in order and k below `width`.
// Floats of weights and errors come in groups of `together`, rows of the factor `stride` apart.
RAQ_INLINE void subtract(Float* weights, const Float* errors, int depth, const float* factor, int stride) {
  Float left[width][together];
#pragma GCC unroll 8
  for (int k = 0; k < width; ++k)
#pragma GCC unroll 2
    for (int t = 0; t < together; ++t) left[k][t] = weights[k * together + t];
  for (int j = 0; j < depth; ++j)
#pragma GCC unroll 8
    for (int k = 0; k < width; ++k)
#pragma GCC unroll 2
      for (int t = 0; t < together; ++t) left[k][t] -= errors[j * together + t] * factor[j * stride + k];
#pragma GCC unroll 8
  for (int k = 0; k < width; ++k)
#pragma GCC unroll 2
    for (int t = 0; t < together; ++t) weights[k * together + t] = left[k][t];
}

template <class Format>
class Feedback {
  static constexpr int K = Format::weights, sub_block = Format::sub_block, step = Chosen<Format>::step;
  static_assert(span % K == 0 && K % panel == 0 && panel % sub_block == 0 && sub_block % step == 0);

 public:
  Feedback(const Rows& rows, const float* factor, Effort effort, float* scratch, std::uint8_t* out)
      : rows_(rows), factor_(factor), effort_(effort), out_(out), length_(static_cast<int>(rows.length)) {
    groups_ = static_cast<int>((rows.count + together * lanes - 1) / (together * lanes));
    corner_ = scratch;
    strip_ = corner_ + span * corner_stride;
    errors_ = reinterpret_cast<Float*>(strip_ + span * strip);
    weights_ = errors_ + groups_ * span * together;
  }

  void run() {
    for (int g = 0; g < groups_; ++g) load(g);
    for (int first = 0; first < length_; first += span) {
      const int count = length_ - first < span ? length_ - first : span;
      load_corner(first, count);
      for (int g = 0; g < groups_; ++g)
        for (int start = 0; start < count; start += K) round_block(g, first, start, count);
      for (int k = first + count; k < length_; k += strip) spread(first, count, k);
    }
  }

 private:
  const Rows& rows_;
  const float* factor_;
  Effort effort_;
  std::uint8_t* out_;
  int length_, groups_;  // a group of rows has `together` tiles
  float* corner_;        // the factor between columns of one span
  float* strip_;         // and from these to a few later columns, `width` of them after each other
  Float* errors_;        // of one span: [group][column][tile]
  Float* weights_;       // [group][column][tile]

  Float* weights_of(int group, int column) {
    return weights_ + (group * std::int64_t{length_} + column) * together;
  }
  Float* errors_of(int group) { return errors_ + group * span * together; }
  std::int64_t first_row(int group, int tile) const {
    return (group * std::int64_t{together} + tile) * lanes;
  }
  int rows_in(int group, int tile) const {
    const std::int64_t left = rows_.count - first_row(group, tile);
    return static_cast<int>(left < 0 ? 0 : left < lanes ? left : lanes);
  }

  void load(int group) {
    for (int t = 0; t < together; ++t)
      for (int k = 0; k < length_; k += panel) {
        const float* source[lanes];
        for (int i = 0; i < lanes; ++i) source[i] = rows_.weights + (first_row(group, t) + i) * length_ + k;
        Float turned[panel];
        turn<panel>(source, rows_in(group, t), turned);
        Float* weights = weights_of(group, k) + t;
        for (int i = 0; i < panel; ++i) weights[i * together] = turned[i];
      }
  }

  void load_corner(int first, int count) {
    for (int j = 0; j < count; ++j) {
      const int from = j / panel * panel;  // what is further left is below the diagonal
      memcpy(corner_ + j * corner_stride + from, factor_ + (first + j) * std::int64_t{length_} + first + from,
             (count - from) * sizeof(float));
    }
  }

  // The errors of a span for `strip` columns from k on, in all groups while this part of the factor is near.
  void spread(int first, int count, int k) {
    for (int j = 0; j < count; ++j) {
      const float* source = factor_ + (first + j) * std::int64_t{length_} + k;
      for (int part = 0; part < strip / width; ++part)
        memcpy(strip_ + (part * span + j) * width, source + part * width, width * sizeof(float));
    }
    for (int g = 0; g < groups_; ++g)
      for (int part = 0; part < strip / width; ++part)
        subtract(weights_of(g, k + part * width), errors_of(g), count, strip_ + part * span * width, width);
  }

  // A block of every row of a group: its scales, then its columns in panels. Columns are counted from `first`.
  RAQ_NOINLINE void round_block(int group, int first, int start, int count) {
    Float* weights = weights_of(group, first);
    OpenBlock<Format> block[together];
    Tile<K> tile;
    for (int t = 0; t < together; ++t)
      block[t].open(weights + start * together + t, together, rows_.importance + first + start, effort_,
                    tile);
    for (int from = start; from < start + K; from += panel) {
      for (int column = from; column < from + panel; column += sub_block) {
        SubBlock shared[together];
        for (int t = 0; t < together; ++t) shared[t] = block[t].sub_block((column - start) / sub_block);
        for (int k = column; k < column + sub_block; k += step)
          round_columns(group, weights, shared, tile.importance + (k - start), k, k - start, from + panel,
                        block);
      }
      for (int k = from + panel; k < count; k += width)
        subtract(weights + k * together, errors_of(group) + from * together, panel,
                 corner_ + from * corner_stride + k, corner_stride);
    }
    const std::int64_t row_bytes = length_ / K * std::int64_t{Format::bytes};
    for (int t = 0; t < together; ++t) {
      block[t].close();
      store_blocks(block[t].bytes, rows_in(group, t),
                   out_ + first_row(group, t) * row_bytes + (first + start) / K * Format::bytes, row_bytes);
    }
  }

  // Columns whose codes are chosen together, from number `place` of the block on; their errors are subtracted
  // up to column `end`.
  RAQ_INLINE void round_columns(int group, Float* weights, const SubBlock* shared, const Float* importance,
                                int column, int place, int end, OpenBlock<Format>* block) {
    Float levels[together][step];
    for (int t = 0; t < together; ++t) {
      Float left[step];
      for (int i = 0; i < step; ++i) left[i] = bounded(weights[(column + i) * together + t]);
      block[t].chosen.choose(left, importance, shared[t], place, levels[t]);
    }
    for (int j = column; j < column + step; ++j) {
      const float* factor = corner_ + j * corner_stride;
      Float error[together];
      for (int t = 0; t < together; ++t) {
        error[t] = error_of(weights[j * together + t], levels[t][j - column], shared[t], factor[j]);
        errors_of(group)[j * together + t] = error[t];
      }
      for (int k = j + 1; k < end; ++k)
        for (int t = 0; t < together; ++t) weights[k * together + t] -= error[t] * factor[k];
    }
  }
};

}  // namespace raq::RAQ_LEVEL
