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
#include "cpu/groups.hpp"
#include "cpu/kernels.hpp"
#include "formats/all.hpp"

namespace raq::RAQ_LEVEL {

constexpr int panel = 32;  // columns that get each other's errors one by one
constexpr int span = feedback::span;
static_assert(span % panel == 0 && panel % strip == 0);

// The factor between the columns of a span, panel after panel: its square, row after row, and then strips of the later
// columns. A panel has the place of a whole span.
RAQ_INLINE float* panel_of(float* corner, int from) { return corner + from * span; }
RAQ_INLINE float* strip_of(float* of_panel, int after) { return of_panel + after * panel; }

inline void pack_corner(const float* factor, std::int64_t length, std::int64_t first, int count,
                        float* corner) {
  for (int from = 0; from < count; from += panel) {
    float* const of_panel = panel_of(corner, from);
    const float* source = factor + (first + from) * length + first + from;
    for (int j = 0; j < panel; ++j) memcpy(of_panel + j * panel, source + j * length, panel * sizeof(float));
    pack_strips(source + panel, length, panel, count - from - panel, strip_of(of_panel, panel), panel);
  }
}

// Rounds a span of columns of `tiles` vectors of rows, whose weights and errors are [column][tile].
template <class Format, int tiles>
class Span {
  static constexpr int K = Format::weights, sub_block = Format::sub_block, step = Chosen<Format>::step;
  static_assert(span % K == 0 && K % panel == 0 && panel % sub_block == 0 && sub_block % step == 0);

 public:
  Float *weights, *errors;
  Float* restored;          // what the blocks say, [column][tile]; or null
  const float* importance;  // of the span
  float* corner;            // see pack_corner
  std::int64_t rows;        // at most `tiles` vectors of them
  std::uint8_t* blocks;     // of the first row
  std::int64_t row_bytes;
  int count;  // columns
  Effort effort;

  void round() {
    for (int start = 0; start < count; start += K) round_block(start);
  }

 private:
  int rows_in(int tile) const {
    const std::int64_t left = rows - tile * lanes;
    return static_cast<int>(left < 0 ? 0 : left < lanes ? left : lanes);
  }

  // A block of every row: its scales, then its columns in panels.
  RAQ_NOINLINE void round_block(int start) {
    OpenBlock<Format> block[tiles];
    Tile<K> tile;
    for (int t = 0; t < tiles; ++t)
      block[t].open(weights + start * tiles + t, tiles, importance + start, effort, tile);
    for (int from = start; from < start + K; from += panel) {
      float* const of_panel = panel_of(corner, from);
      for (int column = from; column < from + panel; column += sub_block) {
        SubBlock shared[tiles];
        for (int t = 0; t < tiles; ++t) shared[t] = block[t].sub_block((column - start) / sub_block);
        for (int k = column; k < column + sub_block; k += step)
          round_columns(from, of_panel, shared, tile.importance + (k - start), k, k - start, block);
      }
      for (int k = from + panel; k < count; k += strip)
        add_products<true, tiles>(weights + k * tiles, errors + from * tiles, panel,
                                  strip_of(of_panel, k - from));
    }
    for (int t = 0; t < tiles; ++t) {
      block[t].close();
      store_blocks(block[t].bytes, rows_in(t), blocks + t * lanes * row_bytes + start / K * Format::bytes,
                   row_bytes);
      if (restored != nullptr) restore(block[t].bytes, restored + start * tiles + t);
    }
  }

  RAQ_INLINE void restore(const Bytes<Format::bytes>& bytes, Float* to) const {
    Float values[K];
    Format::dequantize(bytes, values);
    for (int k = 0; k < K; ++k) to[k * tiles] = values[k];
  }

  // Columns whose codes are chosen together, from number `place` of the block on; their errors are subtracted
  // up to the end of the panel, which begins with column `from`.
  RAQ_INLINE void round_columns(int from, const float* of_panel, const SubBlock* shared,
                                const Float* of_columns, int column, int place, OpenBlock<Format>* block) {
    Float levels[tiles][step];
    for (int t = 0; t < tiles; ++t) {
      Float left[step];
      for (int i = 0; i < step; ++i) left[i] = bounded(weights[(column + i) * tiles + t]);
      block[t].chosen.choose(left, of_columns, shared[t], place, levels[t]);
    }
    for (int j = column; j < column + step; ++j) {
      const float* factor = of_panel + (j - from) * panel;
      Float error[tiles];
      for (int t = 0; t < tiles; ++t) {
        error[t] = error_of(weights[j * tiles + t], levels[t][j - column], shared[t], factor[j - from]);
        errors[j * tiles + t] = error[t];
      }
      for (int k = j + 1; k < from + panel; ++k)
        for (int t = 0; t < tiles; ++t) weights[k * tiles + t] -= error[t] * factor[k - from];
    }
  }
};

// Rounds rows that do not depend on each other.
template <class Format>
class Feedback {
  static constexpr int tiles = group_tiles < 2 ? 2 : group_tiles;  // while one waits, another computes
  static constexpr int near = feedback::near;
  static_assert(feedback::row_step % (tiles * lanes) == 0);

 public:
  Feedback(const Rows& rows, const float* factor, Effort effort, float* scratch, std::uint8_t* out)
      : rows_(rows), factor_(factor), effort_(effort), out_(out), length_(static_cast<int>(rows.length)) {
    groups_ = static_cast<int>((rows.count + tiles * lanes - 1) / (tiles * lanes));
    corner_ = scratch;
    strips_ = corner_ + feedback::corner;
    errors_ = reinterpret_cast<Float*>(strips_ + span * near);
    weights_ = errors_ + groups_ * span * tiles;
  }

  void run() {
    for (int g = 0; g < groups_; ++g) load(g);
    for (int first = 0; first < length_; first += span) {
      const int count = length_ - first < span ? length_ - first : span;
      pack_corner(factor_, length_, first, count, corner_);
      for (int g = 0; g < groups_; ++g) round(g, first, count);
      for (int k = first + count; k < length_; k += near) spread(first, count, k);
    }
  }

 private:
  const Rows& rows_;
  const float* factor_;
  Effort effort_;
  std::uint8_t* out_;
  int length_, groups_;  // a group of rows has `tiles` vectors
  float* corner_;        // the factor between columns of one span
  float* strips_;        // and from these to a few later columns
  Float* errors_;        // of one span: [group][column][tile]
  Float* weights_;       // [group][column][tile]

  Float* weights_of(int group, int column) {
    return weights_ + (group * std::int64_t{length_} + column) * tiles;
  }
  Float* errors_of(int group) { return errors_ + group * span * tiles; }
  std::int64_t first_row(int group) const { return group * std::int64_t{tiles} * lanes; }

  void load(int group) {
    for (int t = 0; t < tiles; ++t) {
      const std::int64_t first = first_row(group) + t * lanes, left = rows_.count - first;
      for (int k = 0; k < length_; k += panel) {
        const float* source[lanes];
        for (int i = 0; i < lanes; ++i) source[i] = rows_.weights + (first + i) * length_ + k;
        Float turned[panel];
        turn<panel>(source, static_cast<int>(left < 0 ? 0 : left < lanes ? left : lanes), turned);
        Float* weights = weights_of(group, k) + t;
        for (int i = 0; i < panel; ++i) weights[i * tiles] = turned[i];
      }
    }
  }

  void round(int group, int first, int count) {
    const std::int64_t row_bytes = length_ / Format::weights * std::int64_t{Format::bytes};
    Span<Format, tiles>{weights_of(group, first),
                        errors_of(group),
                        nullptr,
                        rows_.importance + first,
                        corner_,
                        rows_.count - first_row(group),
                        out_ + first_row(group) * row_bytes + first / Format::weights * Format::bytes,
                        row_bytes,
                        count,
                        effort_}
        .round();
  }

  // The errors of a span for `near` columns from k on, in all groups while this part of the factor is near.
  void spread(int first, int count, int k) {
    pack_strips(factor_ + first * std::int64_t{length_} + k, length_, count, near, strips_, count);
    for (int g = 0; g < groups_; ++g)
      for (int column = 0; column < near; column += strip)
        add_products<true, tiles>(weights_of(g, k + column), errors_of(g), count, strips_ + column * count);
  }
};

}  // namespace raq::RAQ_LEVEL
