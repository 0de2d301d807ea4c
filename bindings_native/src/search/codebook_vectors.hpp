// Search for the vectors of a codebook format: x ~ s * v, v one of 256 to 2048 vectors of 8 or 4 levels.
//
// At a scale s a vector explains s * (2 sum(h x v) - s sum(h v v)) of the energy. Both sums split into those
// of the two halves of the vector, and a half has few patterns (81 or 64). So the share of each pattern is
// computed once, and a vector costs one addition and one comparison. The best vector at a scale is therefore
// found exactly, without a list of neighbours.
//
// Vectors that share their first half are one addition, to the largest share of a partner: rounding keeps the
// order of sums. On processors these maxima are straight-line code, in which first halves share what they have
// in common (generate_codebooks.py).
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
#define RAQ_BOOK(name, tables)                                                            \
  struct name {                                                                           \
    static constexpr int entries = tables::entries;                                       \
    static constexpr int length = tables::length;                                         \
    static constexpr int level_count = tables::level_count;                               \
    static constexpr int patterns = tables::patterns;                                     \
    static constexpr int odd_multiples = tables::odd_multiples;                           \
    static constexpr float unit = tables::unit;                                           \
    RAQ_INLINE static float level(int i) { return tables::levels[i]; }                    \
    RAQ_INLINE static int start(int p) { return tables::start[p]; }                       \
    RAQ_INLINE static int second(int e) { return tables::second[e]; }                     \
    RAQ_INLINE static int index(int e) { return tables::index[e]; }                       \
    RAQ_INLINE static std::uint32_t word(int place) { return tables::words[place]; }      \
    RAQ_INLINE static std::uint32_t members(int place) { return tables::members[place]; } \
    RAQ_INLINE static int place(int p, int q) { return tables::place[p * patterns + q]; } \
    template <class Visit>                                                                \
    RAQ_INLINE static void partners(const Float* share, Visit visit) {                    \
      tables::partners(share, visit);                                                     \
    }                                                                                     \
  };
RAQ_BOOK(BookIq2Xxs, iq2_xxs)
RAQ_BOOK(BookIq2Xs, iq2_xs)
RAQ_BOOK(BookIq2S, iq2_s)
RAQ_BOOK(BookIq3Xxs, iq3_xxs)
RAQ_BOOK(BookIq3S, iq3_s)
RAQ_BOOK(BookIq1, iq1_s)
#undef RAQ_BOOK

// The levels of the vector that each lane's code names.
template <class Book>
RAQ_INLINE void book_values(Int code, Float* values) {
  constexpr int words = Book::length / 4;
  for (int w = 0; w < words; ++w) {
    Int word;
    for (int i = 0; i < lanes; ++i)
      lane(word, i) = static_cast<std::int32_t>(Book::word(lane(code, i) * words + w));
    for (int k = 0; k < 4; ++k) values[4 * w + k] = to_float((word << (24 - 8 * k)) >> 24);
  }
}

// sum(h x v) and sum(h v v) of half a vector, for each of its patterns.
template <class Book>
struct HalfSums {
  static constexpr int patterns = Book::patterns;
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

// A vector by the pattern of its first half and the share of the other.
struct Halves {
  Int first;
  Float partner;
};

// The search for one group of Book::length weights.
template <class Book>
struct GroupSearch {
  static constexpr int half = Book::length / 2, patterns = Book::patterns;
  HalfSums<Book> first, second;
  Float first_share[patterns], second_share[patterns];

  RAQ_HD void build(const Float* x, const Float* h, Float shift) {
    first.build(x, h, shift);
    second.build(x + half, h + half, shift);
  }

  // Energy explained by the best vector at a scale. Of several such vectors the first in the order of patterns is meant.
  RAQ_HD Float best(Float scale, Halves& found) {
    first.explain(scale, first_share);
    second.explain(scale, second_share);
    found = {splat(0), splat(0.0f)};
    Float gain = splat(-1e30f);
    for_each_first([&](int p, Float partner) RAQ_INLINED {
      const Float share = first_share[p] + partner;
      const Mask better = share > gain;
      found.first = select(better, splat(p), found.first);
      found.partner = select(better, partner, found.partner);
      gain = larger(share, gain);
    });
    return gain;
  }
  RAQ_HD Float gain(Float scale) {
    Halves unused;
    return best(scale, unused);
  }

  RAQ_HD Int find(Float scale) {
    Halves found;
    best(scale, found);
    return code_of(found);
  }

  // The code of halves that were found at a scale, for a group that may not be the one which was built.
  RAQ_HD Int find_again(const Float* x, const Float* h, Float shift, Float scale, const Halves& found) {
    second.build(x + half, h + half, shift);
    second.explain(scale, second_share);
    return code_of(found);
  }

 private:
  // Calls `visit` for every first half with the largest share of a partner.
  template <class Visit>
  RAQ_INLINE void for_each_first(Visit visit) const {
#if RAQ_LANES == 1
    RAQ_ROLLED
    for (int p = 0; p < patterns; ++p) {
      const int end = Book::start(p + 1);
      int e = Book::start(p);
      if (e == end) continue;
      Float most = second_share[Book::second(e)];
      for (++e; e < end; ++e) most = larger(second_share[Book::second(e)], most);
      visit(p, most);
    }
#else
    Book::partners(second_share, visit);
#endif
  }

  // `second_share` is that of the scale.
  RAQ_INLINE Int code_of(const Halves& found) const {
#if RAQ_LANES == 1
    const int start = Book::start(found.first), end = Book::start(found.first + 1);
    for (int e = start; e < end; ++e)
      if (second_share[Book::second(e)] == found.partner) return Book::index(e);
    return Book::index(start);  // numbers that are none
#else
    constexpr int words = (patterns + 31) / 32;
    Int equal[words];  // a bit for each pattern with the partner's share
#pragma GCC unroll 3
    for (int w = 0; w < words; ++w) {
      equal[w] = splat(0);
#pragma GCC unroll 32
      for (int q = 0; q < 32; ++q)
        if (32 * w + q < patterns)
          equal[w] |= select(second_share[32 * w + q] == found.partner, splat(1 << q), splat(0));
    }
    Int first = found.first, code;
    for (int i = 0; i < lanes; ++i) {
      const int p = lane(first, i);
      int q = 0;
      for (int w = words - 1; w >= 0; --w) {
        const std::uint32_t of_both = lane(equal[w], i) & Book::members(p * words + w);
        q = of_both == 0 ? q : 32 * w + __builtin_ctz(of_both);
      }
      lane(code, i) = Book::place(p, q);
    }
    return code;
#endif
  }
};

// sum(h x v) and sum(h v v) of a vector, added up as for its halves.
struct VectorSums {
  Float cross, square;
};
template <int length>
RAQ_INLINE VectorSums vector_sums(const Float* x, const Float* h, const Float* values) {
  VectorSums halves[2];
  for (int n = 0; n < 2; ++n) {
    halves[n] = {splat(0.0f), splat(0.0f)};
    for (int k = n * length / 2; k < (n + 1) * length / 2; ++k) {
      halves[n].cross = halves[n].cross + h[k] * x[k] * values[k];
      halves[n].square = halves[n].square + h[k] * (values[k] * values[k]);
    }
  }
  return {halves[0].cross + halves[1].cross, halves[0].square + halves[1].square};
}

}  // namespace raq::RAQ_LEVEL
