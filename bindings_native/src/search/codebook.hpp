// Search for the scales of a super-block whose codes name vectors of a codebook.
//
// A sub-block's scale is s = d * step * (2 l + 1), l a small whole number. First the scale that each
// sub-block would like, then d, then for each sub-block the best of three neighbouring l and its vectors,
// then d again for what they became.
#pragma once

#include "effort.hpp"
#include "search/codebook_vectors.hpp"
#include "search/symmetric.hpp"

namespace raq::RAQ_LEVEL {

// The odd numbers 1, 3 .. top, which are the values of 2 l + 1.
template <int top>
struct Odd {
  static constexpr float low = top;
  RAQ_INLINE static Float round(Float value) {
    return 2.0f * nearest(clamp((value - 1.0f) * 0.5f, 0.0f, (top - 1) / 2)) + 1.0f;
  }
};

enum class Shift { none, per_sub_block, per_group };

// Shape of a super-block of 256 weights in sub-blocks with a scale each. Candidates for a scale range from
// `reach_low` to 1.1 times the one at which the largest weight meets the largest level.
struct BookShape {
  int length;  // weights per sub-block
  int scale_top;
  float step;  // s = d * step * (2 l + 1)
  Shift shift;
  float level_top;
  float reach_low;
  float evenness = 0.0f;  // see CodebookSuperBlock::search; 0: vectors are chosen by importance itself
  float way = 0.5f;       // see restoring_gain
};

template <class Book, BookShape s>
struct CodebookSuperBlock {
  static constexpr int sub_blocks = 256 / s.length, groups = s.length / Book::length;
  static constexpr int shifts = s.shift == Shift::none ? 1 : 2;
  static constexpr float shift_size = 0.125f;
  Int codes[256 / Book::length];
  Int negative_shift[256 / Book::length];
  Float scales[sub_blocks];  // 2 l + 1
  StoredScale d;

  // With an evenness e, vectors and scales are chosen by h * sqrt(e * mean(x^2) + x^2) and only d by h. Where
  // a codebook has few vectors, least squares by h alone sacrifices the large weights; a model is nearer to
  // its original with a little more squared error and those kept. (ggml weights so in all formats; the more
  // codes there are, the less it matters.)
  RAQ_HD void search(const Float* x, const Float* h, Unit unit, Effort effort) {
    if constexpr (s.evenness > 0.0f) {
      Float emphasis[256], even = splat(0.0f);
      for (int k = 0; k < 256; ++k) even += x[k] * x[k];
      even *= s.evenness / 256.0f;
      for (int k = 0; k < 256; ++k) emphasis[k] = h[k] * root(even + x[k] * x[k]);
      choose_all(x, emphasis, unit, effort);
      sum_up(x, h);
    } else {
      choose_all(x, h, unit, effort);
    }
    Float energy = splat(0.0f);
    for (int k = 0; k < 256; ++k) energy += h[k] * (x[k] * x[k]);
    const Float scale = quotient_or_zero(cross, square);
    d = store_scale(scale * restoring_gain(energy, scale * cross, s.way) * (1.0f / s.step), unit);
  }

 private:
  Float cross, square;  // sums of h x r and h r r, with r the restored weights at d * step = 1

  RAQ_HD void choose_all(const Float* x, const Float* h, Unit unit, Effort effort) {
    Float wanted[sub_blocks], stakes[sub_blocks];
    RAQ_ROLLED
    for (int j = 0; j < sub_blocks; ++j) {
      const Float *xj = x + j * s.length, *hj = h + j * s.length;
      stakes[j] = splat(0.0f);
      for (int k = 0; k < s.length; ++k) stakes[j] += hj[k];
      wanted[j] =
          effort == Effort::best ? wanted_scale<true, 24>(j, xj, hj) : wanted_scale<false, 16>(j, xj, hj);
    }
    const ScaleFit fit =
        fit_scale<Odd<s.scale_top>, sub_blocks>(wanted, stakes, scale_search(Effort::fast, 5.0f));
    d = store_scale(fit.scale * (1.0f / s.step), unit);
    cross = square = splat(0.0f);
    RAQ_ROLLED
    for (int j = 0; j < sub_blocks; ++j) choose(j, x + j * s.length, h + j * s.length, wanted[j]);
  }

  // The sums of what was chosen, by another importance than it was chosen by.
  RAQ_HD void sum_up(const Float* x, const Float* h) {
    cross = square = splat(0.0f);
    RAQ_ROLLED
    for (int g = 0; g < 256 / Book::length; ++g) {
      const Float scale = scales[g / groups], shift = shift_of(negative_shift[g]);
      Float values[Book::length];
      book_values<Book>(codes[g], values);
      for (int k = 0; k < Book::length; ++k) {
        const int place = g * Book::length + k;
        const Float value = scale * (values[k] + shift);
        const Float weighted = h[place] * value;
        cross += weighted * x[place];
        square += weighted * value;
      }
    }
  }

  RAQ_INLINE static Float shift_of(Int negative) {
    if constexpr (shifts == 1) return splat(0.0f);
    return select(negative == splat(1), splat(-shift_size), splat(shift_size));
  }

  // The level nearest to a position, of two that are as near the lower one.
  RAQ_INLINE static Float nearest_level(Float position) {
    Float level = splat(Book::level(0));
    int next = 1;
    if constexpr (Book::odd_multiples > 0) {
      constexpr float unit = Book::unit, to_even = 2.0f * 12582912.0f * unit;  // as in `nearest`
      const Float within = clamp(position, unit, (2 * Book::odd_multiples - 1) * unit);
      const Float even = (within + to_even) - to_even;
      level = even + select(within > even, splat(unit), splat(-unit));
      next = Book::odd_multiples;
    }
    RAQ_ROLLED
    for (int i = next; i < Book::level_count; ++i)
      level = select(position > splat(0.5f * (Book::level(i - 1) + Book::level(i))), splat(Book::level(i)),
                     level);
    return level;
  }

  // Energy explained if every weight could take its nearest level, without a codebook: cheap, an upper bound,
  // and largest at nearly the same scale.
  RAQ_HD static Float relaxed_gain(const Float* x, const Float* h, Float scale, Float shift) {
    const Float inverse = inverse_or_zero(scale);
    Float gain = splat(0.0f);
    RAQ_UNROLL
    for (int k = 0; k < Book::length; ++k) {
      const Float value = scale * (nearest_level(x[k] * inverse - shift) + shift);
      gain += (h[k] * value) * (x[k] + x[k] - value);
    }
    return gain;
  }

  // The one of `count` candidate scales that explains most of sub-block j; sets its shifts.
  template <bool exact, int count>
  RAQ_HD Float wanted_scale(int j, const Float* x, const Float* h) {
    const Float top = largest_of<s.length>(x) * (1.0f / s.level_top);
    Float gain[shifts][count];
    RAQ_ROLLED
    for (int n = 0; n < shifts; ++n) RAQ_ROLLED
    for (int c = 0; c < count; ++c) gain[n][c] = splat(0.0f);
    RAQ_ROLLED
    for (int g = 0; g < groups; ++g)
      add_gains<exact, count>(x + g * Book::length, h + g * Book::length, top, gain);
    Float best = splat(0.0f), best_scale = splat(0.0f);
    Int negative = splat(0);
    RAQ_ROLLED
    for (int n = 0; n < shifts; ++n) RAQ_ROLLED
    for (int c = 0; c < count; ++c) {
      const Mask better = gain[n][c] > best;
      best = select(better, gain[n][c], best);
      best_scale = select(better, top * candidate<count>(c), best_scale);
      negative = select(better, splat(n), negative);
    }
    RAQ_ROLLED
    for (int g = 0; g < groups; ++g)
      negative_shift[j * groups + g] =
          s.shift == Shift::per_group
              ? better_shift<exact>(x + g * Book::length, h + g * Book::length, best_scale)
              : negative;
    return best_scale;
  }

  template <int count>
  RAQ_INLINE static float candidate(int c) {
    return s.reach_low + (1.1f - s.reach_low) * (static_cast<float>(c) / (count - 1));
  }

  template <bool exact, int count>
  RAQ_HD static void add_gains(const Float* x, const Float* h, Float top, Float (*gain)[count]) {
    Float found[shifts][count];
    RAQ_ROLLED
    for (int n = 0; n < shifts; ++n) {
      const Float shift = shift_of(splat(n));
      GroupSearch<Book> group;
      if constexpr (exact) group.build(x, h, shift);
      RAQ_ROLLED
      for (int c = 0; c < count; ++c) {
        const Float scale = top * candidate<count>(c);
        found[n][c] = exact ? group.gain(scale) : relaxed_gain(x, h, scale, shift);
      }
    }
    RAQ_ROLLED
    for (int c = 0; c < count; ++c) {
      if constexpr (s.shift == Shift::per_group) found[0][c] = larger(found[0][c], found[1][c]);
      RAQ_ROLLED
      for (int n = 0; n < shifts; ++n) gain[n][c] += found[n][c];
    }
  }

  template <bool exact>
  RAQ_HD static Int better_shift(const Float* x, const Float* h, Float scale) {
    Float gain[2];
    RAQ_ROLLED
    for (int n = 0; n < 2; ++n) {
      const Float shift = shift_of(splat(n));
      GroupSearch<Book> group;
      if constexpr (exact) group.build(x, h, shift);
      gain[n] = exact ? group.gain(scale) : relaxed_gain(x, h, scale, shift);
    }
    return select(gain[1] > gain[0], splat(1), splat(0));
  }

  // The best of three neighbouring whole scales for sub-block j, and its vectors.
  RAQ_HD void choose(int j, const Float* x, const Float* h, Float wanted) {
    const Float step = d.value * s.step;
    // 3 .. top - 2, so that both neighbours exist.
    const Float middle = Odd<s.scale_top - 4>::round(wanted * inverse_or_zero(step) - 2.0f) + 2.0f;
    GroupSearch<Book> group;
    Halves found[groups][3];
    Float gain[3] = {splat(0.0f), splat(0.0f), splat(0.0f)};
    RAQ_ROLLED
    for (int g = 0; g < groups; ++g) {
      group.build(x + g * Book::length, h + g * Book::length, shift_of(negative_shift[j * groups + g]));
      RAQ_ROLLED
      for (int c = 0; c < 3; ++c)
        gain[c] += group.best(step * (middle + static_cast<float>(2 * c - 2)), found[g][c]);
    }
    Float best = gain[1];
    Int chosen = splat(1);
    RAQ_ROLLED
    for (int c = 0; c < 3; c += 2) {
      chosen = select(gain[c] > best, splat(c), chosen);
      best = larger(gain[c], best);
    }
    scales[j] = middle + 2.0f * to_float(chosen - 1);
    RAQ_ROLLED
    for (int g = 0; g < groups; ++g)
      take(j * groups + g, x + g * Book::length, h + g * Book::length, chosen, found[g], step * scales[j],
           scales[j], group);
  }

  // The vector of a group at the scale that was chosen. Sums are built again: keeping those of all groups would
  // take a stack many times as large.
  RAQ_HD void take(int place, const Float* x, const Float* h, Int chosen, const Halves* found, Float scale,
                   Float odd, GroupSearch<Book>& group) {
    const Float shift = shift_of(negative_shift[place]);
    Halves halves = found[1];
    for (int c = 0; c < 3; c += 2) {
      halves.first = select(chosen == splat(c), found[c].first, halves.first);
      halves.partner = select(chosen == splat(c), found[c].partner, halves.partner);
    }
    codes[place] = group.find_again(x, h, shift, scale, halves);
    Float values[Book::length];
    book_values<Book>(codes[place], values);
    for (int k = 0; k < Book::length; ++k) values[k] += shift;
    const VectorSums sums = vector_sums<Book::length>(x, h, values);
    cross += odd * sums.cross;
    square += odd * (odd * sums.square);
  }
};

}  // namespace raq::RAQ_LEVEL
