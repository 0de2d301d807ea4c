// Search for the formats whose codes name a vector of a codebook: x ~ s * v, v one of 256 to 2048 vectors of
// 8 or 4.
//
// At a scale s a vector explains s * (2 sum(h x v) - s sum(h v v)) of the energy. Both sums split into those
// of the two halves of the vector, and a half has few patterns (81 or 64): so each pattern's share is
// computed once, and a vector costs one addition and one comparison. The best vector at a scale is therefore
// found exactly, without a list of neighbours. Scales of sub-blocks are s = d * Book::step * (2 l + 1), l a
// small whole number.
#pragma once

#if defined(__CUDACC__)
#define RAQ_TABLE __device__ const
#else
#define RAQ_TABLE constexpr
#endif

#include "codebooks.hpp"
#include "effort.hpp"
#include "search_symmetric.hpp"

namespace raq::RAQ_LEVEL {

// What a codebook format says of itself, on top of the generated tables of its vectors.
#define RAQ_BOOK(name, tables)                                               \
  struct name {                                                              \
    static constexpr int entries = tables::entries;                          \
    static constexpr int length = tables::length;                            \
    static constexpr int level_count = tables::level_count;                  \
    RAQ_INLINE static float level(int i) { return tables::levels[i]; }       \
    RAQ_INLINE static int start(int p) { return tables::start[p]; }          \
    RAQ_INLINE static int second(int e) { return tables::second[e]; }        \
    RAQ_INLINE static int index(int e) { return tables::index[e]; }          \
    RAQ_INLINE static int value(int place) { return tables::values[place]; } \
  };
RAQ_BOOK(BookIq2Xxs, iq2_xxs)
RAQ_BOOK(BookIq2Xs, iq2_xs)
RAQ_BOOK(BookIq2S, iq2_s)
RAQ_BOOK(BookIq3Xxs, iq3_xxs)
RAQ_BOOK(BookIq3S, iq3_s)
RAQ_BOOK(BookIq1, iq1_s)
#undef RAQ_BOOK

// Weight k of the vector that each lane's code names.
template <class Book>
RAQ_INLINE Float book_value(Int code, int k) {
  Float found;
  for (int i = 0; i < lanes; ++i)
    lane(found, i) = static_cast<float>(Book::value(lane(code, i) * Book::length + k));
  return found;
}

template <class Book>
constexpr int pattern_count() {
  int count = 1;
  for (int k = 0; k < Book::length / 2; ++k) count *= Book::level_count;
  return count;
}

// sum(h x v) and sum(h v v) of half a vector, for each of its patterns.
template <class Book>
struct HalfSums {
  static constexpr int patterns = pattern_count<Book>();
  Float cross[patterns], square[patterns];

  // `shift` is added to every level.
  RAQ_HD void build(const Float* x, const Float* h, Float shift) {
    cross[0] = square[0] = splat(0.0f);
    int built = 1;
    for (int k = 0; k < Book::length / 2; ++k) {
      const Float hx = h[k] * x[k];
      RAQ_ROLLED
      for (int i = Book::level_count - 1; i >= 0; --i) {
        const Float level = Book::level(i) + shift;
        RAQ_ROLLED
        for (int p = 0; p < built; ++p) {
          cross[i * built + p] = cross[p] + hx * level;
          square[i * built + p] = square[p] + h[k] * (level * level);
        }
      }
      built *= Book::level_count;
    }
  }

  RAQ_HD void explain(Float scale, Float* share) const {
    const Float twice = scale + scale, squared = scale * scale;
    RAQ_ROLLED
    for (int p = 0; p < patterns; ++p) share[p] = twice * cross[p] - squared * square[p];
  }
};

struct BookChoice {
  Int code;
  Float cross, square;
};

// The vectors for one group of Book::length weights.
template <class Book>
struct GroupSearch {
  static constexpr int half = Book::length / 2, patterns = pattern_count<Book>();
  HalfSums<Book> first, second;
  Float first_share[patterns], second_share[patterns];

  RAQ_HD void build(const Float* x, const Float* h, Float shift) {
    first.build(x, h, shift);
    second.build(x + half, h + half, shift);
  }

  // Energy explained by the best vector at a scale.
  RAQ_HD Float gain(Float scale) {
    Int best_first;
    return scan<false>(scale, best_first);
  }

  // That vector. After its first half is known, each lane looks through the few second halves by itself.
  RAQ_HD BookChoice find(Float scale) {
    Int best_first = splat(0);
    scan<true>(scale, best_first);
    BookChoice choice{};
    for (int i = 0; i < lanes; ++i) {
      const int p = lane(best_first, i);
      int chosen = Book::start(p);
      for (int e = chosen + 1; e < Book::start(p + 1); ++e)
        if (lane(second_share[Book::second(e)], i) > lane(second_share[Book::second(chosen)], i)) chosen = e;
      const int q = Book::second(chosen);
      lane(choice.code, i) = Book::index(chosen);
      lane(choice.cross, i) = lane(first.cross[p], i) + lane(second.cross[q], i);
      lane(choice.square, i) = lane(first.square[p], i) + lane(second.square[q], i);
    }
    return choice;
  }

 private:
  template <bool keep_first>
  RAQ_INLINE Float scan(Float scale, Int& best_first) {
    first.explain(scale, first_share);
    second.explain(scale, second_share);
    Float best = splat(-1e30f);
    RAQ_ROLLED
    for (int p = 0; p < patterns; ++p) {
      const int end = Book::start(p + 1);
      int e = Book::start(p);
      if (e == end) continue;
      // Two maxima in turn, so that one does not wait for the other.
      Float even = second_share[Book::second(e)], odd = even;
      for (++e; e + 1 < end; e += 2) {
        even = larger(second_share[Book::second(e)], even);
        odd = larger(second_share[Book::second(e + 1)], odd);
      }
      if (e < end) odd = larger(second_share[Book::second(e)], odd);
      const Float share = first_share[p] + larger(even, odd);
      if constexpr (keep_first) best_first = select(share > best, splat(p), best_first);
      best = larger(share, best);
    }
    return best;
  }
};

// Odd numbers 1, 3 .. top: what 2 l + 1 can be.
template <int top>
struct Odd {
  static constexpr float low = top;
  RAQ_INLINE static Float round(Float value) {
    return 2.0f * nearest(clamp((value - 1.0f) * 0.5f, 0.0f, (top - 1) / 2)) + 1.0f;
  }
};

enum class Shift { none, per_sub_block, per_group };

// Shape of a super-block of 256 weights: sub-blocks with a scale each, candidates for it from `reach_low`
// to 1.1 of the one at which the largest weight meets the largest level.
struct BookShape {
  int length;  // weights per sub-block
  int scale_top;
  float step;  // s = d * step * (2 l + 1)
  Shift shift;
  float level_top;
  float reach_low;
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

  RAQ_HD void search(const Float* x, const Float* h, Unit unit, Effort effort) {
    Float wanted[sub_blocks], stakes[sub_blocks];
    RAQ_ROLLED
    for (int j = 0; j < sub_blocks; ++j) {
      const Float *xj = x + j * s.length, *hj = h + j * s.length;
      stakes[j] = splat(0.0f);
      for (int k = 0; k < s.length; ++k) stakes[j] += hj[k];
      wanted[j] =
          effort == Effort::best ? wanted_scale<true, 24>(j, xj, hj) : wanted_scale<false, 16>(j, xj, hj);
    }
    const ScaleFit fit = fit_scale<Odd<s.scale_top>, sub_blocks>(wanted, stakes, 9, 0.5f);
    d = store_scale(fit.scale * (1.0f / s.step), unit);
    Float cross = splat(0.0f), square = splat(0.0f);
    RAQ_ROLLED
    for (int j = 0; j < sub_blocks; ++j)
      choose(j, x + j * s.length, h + j * s.length, wanted[j], cross, square);
    d = store_scale(quotient_or_zero(cross, square) * (1.0f / s.step), unit);
  }

 private:
  RAQ_INLINE static Float shift_of(Int negative) {
    if constexpr (shifts == 1) return splat(0.0f);
    return select(negative == splat(1), splat(-shift_size), splat(shift_size));
  }

  // Energy explained if every weight could take the level it likes, without a codebook: an upper bound,
  // cheap, and greatest at nearly the same scale.
  RAQ_HD static Float relaxed_gain(const Float* x, const Float* h, Float scale, Float shift) {
    const Float inverse = inverse_or_zero(scale);
    Float gain = splat(0.0f);
    RAQ_UNROLL
    for (int k = 0; k < Book::length; ++k) {
      const Float position = x[k] * inverse - shift;
      Float level = splat(Book::level(0));
      RAQ_ROLLED
      for (int i = 1; i < Book::level_count; ++i)
        level = select(position > splat(0.5f * (Book::level(i - 1) + Book::level(i))), splat(Book::level(i)),
                       level);
      const Float value = scale * (level + shift);
      gain += (h[k] * value) * (x[k] + x[k] - value);
    }
    return gain;
  }

  // The scale that explains most of sub-block j, among `count`; sets its shifts.
  template <bool exact, int count>
  RAQ_HD Float wanted_scale(int j, const Float* x, const Float* h) {
    const Float top = magnitude(extreme_of<s.length>(x)) * (1.0f / s.level_top);
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
  RAQ_HD void choose(int j, const Float* x, const Float* h, Float wanted, Float& cross, Float& square) {
    const Float step = d.value * s.step;
    const Float middle = Odd<s.scale_top - 4>::round(wanted * inverse_or_zero(step) - 2.0f) + 2.0f;
    GroupSearch<Book> group;
    Float gain[3] = {splat(0.0f), splat(0.0f), splat(0.0f)};
    RAQ_ROLLED
    for (int g = 0; g < groups; ++g) {
      group.build(x + g * Book::length, h + g * Book::length, shift_of(negative_shift[j * groups + g]));
      RAQ_ROLLED
      for (int c = 0; c < 3; ++c) gain[c] += group.gain(step * (middle + static_cast<float>(2 * c - 2)));
    }
    Float best = gain[1];
    scales[j] = middle;
    RAQ_ROLLED
    for (int c = 0; c < 3; c += 2) {
      scales[j] = select(gain[c] > best, middle + static_cast<float>(2 * c - 2), scales[j]);
      best = larger(gain[c], best);
    }
    RAQ_ROLLED
    for (int g = 0; g < groups; ++g) {
      const int place = j * groups + g;
      group.build(x + g * Book::length, h + g * Book::length, shift_of(negative_shift[place]));
      const BookChoice choice = group.find(step * scales[j]);
      codes[place] = choice.code;
      cross += scales[j] * choice.cross;
      square += scales[j] * (scales[j] * choice.square);
    }
  }
};

}  // namespace raq::RAQ_LEVEL
