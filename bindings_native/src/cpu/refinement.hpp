// Codes chosen again, when all rows are rounded: each in turn becomes the one that is best for the errors of all other
// weights as they are, where that lowers tr(M E H E^T). H is the mean of x x^T over the inputs x, M that of g g^T over
// the gradients g at the outputs, E what rounding adds to the weights; scales stay.
//
// With G = M E H, changing column j of row i by d changes the sum by 2 d G_ij + d^2 M_ii H_jj: least for
// d = -G_ij / (M_ii H_jj). Vectors of codebook formats are proposed by these targets, weighted by H_jj, and taken where the sum
// over their columns is lower.
//
// Lanes are rows, as in feedback.hpp. Changes are few: one row after the other, and only columns with a change reach the
// gradient of later ones: at once in their panel, together with others of the panel or the span beyond it, in the order of
// columns.
#pragma once

#include "common/feedback_blocks.hpp"
#include "cpu/groups.hpp"
#include "cpu/kernels.hpp"
#include "formats/all.hpp"

namespace raq::RAQ_LEVEL {

template <class Format>
class Refinement {
  static constexpr int K = Format::weights, sub_block = Format::sub_block, step = Chosen<Format>::step;
  static constexpr int tiles = group_tiles;
  static constexpr int panel = 32, span = 256;  // columns whose changes reach later ones together
  static_assert(K % panel == 0 && span % K == 0);

 public:
  Refinement(const RefinedRows& rows, std::uint8_t* blocks)
      : rows_(rows),
        blocks_(blocks),
        length_(static_cast<int>(rows.length)),
        row_bytes_(rows.length / K * Format::bytes) {
    gradient_ = reinterpret_cast<Float*>(rows.gradient);
    values_ = reinterpret_cast<Float*>(rows.values);
    for (int t = 0; t < tiles; ++t)
      for (int i = 0; i < lanes; ++i) {
        const int row = t * lanes + i;
        lane(of_row_[t], i) = 1.0f / rows.of_rows[row * groups::rows + row];
      }
  }

  void run() {
    for (int start = 0; start < length_; start += K) refine_block(start);
  }

 private:
  const RefinedRows& rows_;
  std::uint8_t* blocks_;
  int length_;
  std::int64_t row_bytes_;
  Float* gradient_;      // [column][tile]
  Float* values_;        // [column][tile]
  Float of_row_[tiles];  // 1 / M_ii
  // The columns of the span that have changed so far: what is to be added to the gradient, times a row of H.
  struct Told {
    const float* gram;
    Float error[tiles];
  } told_[span];
  int told_count_ = 0, told_panel_ = 0;  // those from `told_panel_` on are of this panel

  int rows_in(int tile) const {
    const std::int64_t left = rows_.count - tile * lanes;
    return static_cast<int>(left < 0 ? 0 : left < lanes ? left : lanes);
  }

  RAQ_NOINLINE void refine_block(int start) {
    OpenBlock<Format> block[tiles];
    Tile<K> tile;
    std::uint8_t* const bytes = blocks_ + start / K * Format::bytes;
    for (int t = 0; t < tiles; ++t) {
      load_blocks(block[t].bytes, rows_in(t), bytes + t * lanes * row_bytes_, row_bytes_);
      tile.load_columns(values_ + start * std::int64_t{tiles} + t, tiles, rows_.diagonal + start);
      block[t].inverse_unit = tile.unit.inverse;
      block[t].chosen.start(block[t].bytes);
    }
    bool changed = false;
    for (int column = 0; column < K; column += sub_block) {
      SubBlock shared[tiles];
      for (int t = 0; t < tiles; ++t) shared[t] = block[t].sub_block(column / sub_block);
      for (int place = column; place < column + sub_block; place += step)
        changed |= refine_columns(start + place, place, tile.importance, shared, block);
      if ((column + sub_block) % panel == 0) end_panel(start + column + sub_block);
    }
    if (!changed) return;
    for (int t = 0; t < tiles; ++t) {
      choose_stored(start, t, tile.importance, block[t]);
      block[t].close();
      store_blocks(block[t].bytes, rows_in(t), bytes + t * lanes * row_bytes_, row_bytes_);
    }
  }

  // The codes of a tile's block, which say its values: those were restored from codes at the same scales.
  RAQ_INLINE void choose_stored(int start, int t, const Float* importance, OpenBlock<Format>& block) const {
    for (int column = 0; column < K; column += sub_block) {
      const SubBlock shared = block.sub_block(column / sub_block);
      for (int place = column; place < column + sub_block; place += step) {
        Float values[step], levels[step];
        for (int i = 0; i < step; ++i) values[i] = values_[(start + place + i) * std::int64_t{tiles} + t];
        block.chosen.choose(values, importance + place, shared, place, levels);
      }
    }
  }

  // Columns whose codes are chosen together. Whether any of them changed in any row.
  RAQ_INLINE bool refine_columns(int column, int place, const Float* importance, const SubBlock* shared,
                                 OpenBlock<Format>* block) {
    Float* const gradient = gradient_ + column * std::int64_t{tiles};
    Float* const values = values_ + column * std::int64_t{tiles};
    Float wanted[step][tiles], change[step][tiles];
    Int any = splat(0);
    for (int t = 0; t < tiles; ++t) {
      Float target[step], levels[step];
      for (int i = 0; i < step; ++i)
        target[i] = bounded(values[i * tiles + t] -
                            gradient[i * tiles + t] * of_row_[t] * (1.0f / rows_.diagonal[column + i]));
      block[t].chosen.choose(target, importance + place, shared[t], place, levels);
      for (int i = 0; i < step; ++i) {
        wanted[i][t] = shared[t].scales.scale * levels[i] - shared[t].scales.offset;
        change[i][t] = wanted[i][t] - values[i * tiles + t];
        any |= float_bits(change[i][t]) & 0x7fffffff;
      }
    }
    if (all_zero(any)) return false;
    bool changed = false;
    for (int row = 0; row < rows_.count; ++row) changed |= take(column, row, wanted, change);
    if (changed) tell_later(column, change);
    return changed;
  }

  static bool all_zero(Int bits) {
    std::int32_t found = 0;
    for (int i = 0; i < lanes; ++i) found |= lane(bits, i);
    return found == 0;
  }

  // Takes what is proposed for a row if it lowers the sum; else its change becomes zero.
  RAQ_INLINE bool take(int column, int row, const Float (*wanted)[tiles], Float (*change)[tiles]) {
    const int t = row / lanes, i = row % lanes;
    float d[step], products[step], most = 0;
    for (int k = 0; k < step; ++k) {
      d[k] = reinterpret_cast<const float*>(&change[k][t])[i];
      most = most < __builtin_fabsf(d[k]) ? __builtin_fabsf(d[k]) : most;
    }
    if (most == 0) return false;
    Float* const gradient = gradient_ + column * std::int64_t{tiles};
    Float* const values = values_ + column * std::int64_t{tiles};
    const float* const of_row = rows_.of_rows + row * groups::rows;
    float cost = 0;
    for (int k = 0; k < step; ++k) {
      products[k] = 0;
      for (int j = 0; j < step; ++j)
        products[k] += d[j] * rows_.gram[(column + j) * std::int64_t{length_} + column + k];
      cost += d[k] * (2 * lane(gradient[k * tiles + t], i) + of_row[row] * products[k]);
    }
    if (!(cost < 0)) {  // not a number: no change
      for (int k = 0; k < step; ++k) lane(change[k][t], i) = 0;
      return false;
    }
    for (int k = 0; k < step; ++k) {
      lane(values[k * tiles + t], i) = reinterpret_cast<const float*>(&wanted[k][t])[i];
      for (int later = 0; later < tiles; ++later)
        gradient[k * tiles + later] += rows_of(of_row, later) * products[k];
    }
    return true;
  }

  static Float rows_of(const float* of_row, int tile) {
    Float found;
    memcpy(&found, of_row + tile * lanes, sizeof found);
    return found;
  }

  // The gradient of later columns, in all rows of the group; now for those of the panel.
  RAQ_INLINE void tell_later(int column, const Float (*change)[tiles]) {
    for (int j = 0; j < step; ++j) {
      Float error[tiles];
      bool any = false;
      for (int t = 0; t < tiles; ++t) error[t] = splat(0.0f);
      for (int row = 0; row < rows_.count; ++row) {
        const float d = reinterpret_cast<const float*>(&change[j][row / lanes])[row % lanes];
        if (d == 0) continue;
        any = true;
        for (int t = 0; t < tiles; ++t) error[t] += d * rows_of(rows_.of_rows + row * groups::rows, t);
      }
      if (!any) continue;
      Told& told = told_[told_count_++];
      told.gram = rows_.gram + (column + j) * std::int64_t{length_};
      for (int t = 0; t < tiles; ++t) told.error[t] = error[t];
      for (int k = column + step; k < (column / panel + 1) * panel; ++k)
        for (int t = 0; t < tiles; ++t) gradient_[k * std::int64_t{tiles} + t] += error[t] * told.gram[k];
    }
  }

  // The changes of a panel reach the rest of its span, those of a span all later columns.
  RAQ_INLINE void end_panel(int end) {
    if (end % span != 0) {
      const int last = (end / span + 1) * span;
      tell(told_panel_, end, last < length_ ? last : length_);
    } else {
      tell(0, end, length_);
      told_count_ = 0;
    }
    told_panel_ = told_count_;
  }

  RAQ_NOINLINE void tell(int first, int from, int to) {
    constexpr int wide = RAQ_LANES == 4 ? 2 : 4;
    if (first == told_count_) return;
    for (int k = from; k < to; k += wide) {
      Float sum[wide][tiles];
      Float* const place = gradient_ + k * std::int64_t{tiles};
#pragma GCC unroll 4
      for (int i = 0; i < wide; ++i)
#pragma GCC unroll 4
        for (int t = 0; t < tiles; ++t) sum[i][t] = place[i * tiles + t];
      for (int j = first; j < told_count_; ++j)
#pragma GCC unroll 4
        for (int i = 0; i < wide; ++i)
#pragma GCC unroll 4
          for (int t = 0; t < tiles; ++t) sum[i][t] += told_[j].error[t] * told_[j].gram[k + i];
#pragma GCC unroll 4
      for (int i = 0; i < wide; ++i)
#pragma GCC unroll 4
        for (int t = 0; t < tiles; ++t) place[i * tiles + t] = sum[i][t];
    }
  }
};

}  // namespace raq::RAQ_LEVEL
