// Search for the vectors of a codebook format: x ~ s * v, v one of 256 to 2048 vectors of 8 or 4 levels.
//
// At a scale s a vector explains s * (2 sum(h x v) - s sum(h v v)) of the energy. Both sums split into those
// of the two halves of the vector, and a half has few patterns (81 or 64). So the share of each pattern is
// computed once, and a vector costs one addition and one comparison. The best vector at a scale is therefore
// found exactly, without a list of neighbours.
#pragma once

#if defined(__CUDACC__)
#define RAQ_TABLE __device__ const
#else
#define RAQ_TABLE constexpr
#endif

#include "codebooks.hpp"
#include "common/portable.hpp"

namespace raq::RAQ_LEVEL {

// A codebook as a type: the generated tables of its vectors behind functions.
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

// Level k of the vector that each lane's code names.
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

// The search for one group of Book::length weights.
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

  // That vector. `scan` finds its first half for all lanes at once; then each lane goes through the
  // few vectors that begin with it.
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
  // The largest share of any vector. Vectors are sorted by their first half, so that each half is added once
  // for all vectors that share it.
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
      // Two maxima, of even and odd places, so that an instruction need not wait for the one before.
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

}  // namespace raq::RAQ_LEVEL
