// IQ2_XXS, IQ2_XS, IQ2_S: 256 weights; groups of 8 name a vector of the magnitudes 8, 25, 43; signs
// are stored apart; w = d / 8 * (2 l + 1) * magnitude * sign; 2.0625, 2.3125 and 2.5625 bits per
// weight. In IQ2_XXS and IQ2_XS a sign code has the signs of seven weights, and the eighth sign makes
// the number of negative ones even.
//
// IQ2_XXS: sub-blocks of 32.
// Bytes: 0 d; then per sub-block 4 vectors (one byte each) and a word: four 7-bit sign
// codes, l in the top four bits.
//
// IQ2_XS: sub-blocks of 16.
// Bytes: 0 d; 2..65 per group a pair: 9 bits vector, 7 bits sign code; 66..73 l, four bits per sub-block.
//
// IQ2_S: sub-blocks of 16.
// Bytes: 0 d; 2..33 low eight bits of the vectors; 34..65 signs; 66..73 upper two
// bits of the vectors; 74..81 l.
#pragma once

#include "common/levels.hpp"
#include "search/codebook.hpp"

namespace raq::RAQ_LEVEL {

RAQ_INLINE Int parity(Int bits) {
  bits ^= bits >> 4;
  bits ^= bits >> 2;
  bits ^= bits >> 1;
  return bits & 1;
}
// All eight signs of a 7-bit sign code.
RAQ_INLINE Int signs_of_code(Int code) { return code | (parity(code) << 7); }

// The signs of a few weights, one bit each, and the magnitudes to search vectors for.
RAQ_INLINE Int take_signs(const Float* x, int count, Float* sizes) {
  Int bits = splat(0);
  for (int k = 0; k < count; ++k) {
    bits |= select(x[k] < splat(0.0f), splat(1 << k), splat(0));
    sizes[k] = magnitude(x[k]);
  }
  return bits;
}
// Where the number of negative ones among 8 weights is odd, the sign that costs least is turned. The search
// gets a negative magnitude there, and so prefers a small level.
RAQ_INLINE Int make_even(Int bits, const Float* h, Float* sizes) {
  Int cheapest = splat(0);
  Float least = h[0] * sizes[0];
  for (int k = 1; k < 8; ++k) {
    const Float cost = h[k] * sizes[k];
    const Mask lower = cost < least;
    least = select(lower, cost, least);
    cheapest = select(lower, splat(k), cheapest);
  }
  const Int odd = parity(bits);
  for (int k = 0; k < 8; ++k) {
    const Mask turned = (odd == splat(1)) & (cheapest == splat(k));
    sizes[k] = select(turned, splat(0.0f) - sizes[k], sizes[k]);
  }
  return bits ^ (odd << cheapest);
}

// The same for a block, in groups of 8.
struct Signs {
  Float sizes[256];
  Int bits[32];

  RAQ_HD void take(const Float* x) {
    for (int g = 0; g < 32; ++g) bits[g] = take_signs(x + 8 * g, 8, sizes + 8 * g);
  }
  RAQ_HD void make_even(const Float* h) {
    for (int g = 0; g < 32; ++g) bits[g] = RAQ_LEVEL::make_even(bits[g], h + 8 * g, sizes + 8 * g);
  }
};

RAQ_INLINE Float with_sign(Float value, Int signs, int k) {
  return select(((signs >> k) & 1) == splat(1), splat(0.0f) - value, value);
}

// Weights `first` and after it of the 8 that share `signs`: those of a vector.
template <class Book>
RAQ_INLINE void signed_values(Int code, Float scale, Int signs, int first, Float* x) {
  book_values<Book>(code, x);
  for (int k = 0; k < Book::length; ++k) x[k] = with_sign(scale * x[k], signs, first + k);
}

template <int Count>
RAQ_INLINE void put_word(Bytes<Count>& block, int offset, Int word) {
  for (int i = 0; i < 4; ++i) block.put(offset + i, (word >> (8 * i)) & 0xff);
}
template <int Count>
RAQ_INLINE Int get_word(const Bytes<Count>& block, int offset) {
  return block.get_pair(offset) | (block.get_pair(offset + 2) << 16);
}

RAQ_INLINE Int scale_code(Float odd) { return truncate((odd - 1.0f) * 0.5f); }
// Four bits per sub-block.
template <int Count>
RAQ_INLINE void put_scale_nibbles(Bytes<Count>& block, int offset, const Float* scales, int count) {
  for (int j = 0; j < count; ++j) block.put(offset + j / 2, scale_code(scales[j]) << (4 * (j % 2)));
}
template <int Count>
RAQ_INLINE Int get_scale_nibble(const Bytes<Count>& block, int offset, int j) {
  return (block.get(offset + j / 2) >> (4 * (j % 2))) & 15;
}

// Vectors of a block, and for every 8 weights their signs, or (IQ1) whether their shift is negative.
template <class Book>
struct BlockVectors {
  Int codes[256 / Book::length];
  Int signs[32];
};

// Error feedback in formats whose signs are stored apart; `even`, with an even number of negative ones in 8.
template <class Book, int group_, bool even>
struct SignedGroups {
  static constexpr int group = group_;
  using Vectors = BlockVectors<Book>;

  RAQ_HD static void choose(const Float* x, const Float* h, Float scale, int place, Vectors& found,
                            Float* levels) {
    Float sizes[group];
    Int signs = take_signs(x, group, sizes);
    if constexpr (even) signs = make_even(signs, h, sizes);
    for (int v = 0; v < group; v += Book::length) {
      GroupSearch<Book> search;
      search.build(sizes + v, h + v, splat(0.0f));
      const Int code = search.find(scale);
      found.codes[(place + v) / Book::length] = code;
      book_values<Book>(code, levels + v);
      for (int k = 0; k < Book::length; ++k) levels[v + k] = with_sign(levels[v + k], signs, v + k);
    }
    Int& bits = found.signs[place / 8];
    bits = place % 8 == 0 ? signs : bits | (signs << (place % 8));
  }
};

constexpr BookShape iq2_by_32{32, 31, 0.125f, Shift::none, 43.0f, 0.5f};
constexpr BookShape iq2_by_16{16, 31, 0.125f, Shift::none, 43.0f, 0.5f};

RAQ_INLINE Float iq2_scale(Float d, Int l) { return d * (0.5f + to_float(l)) * 0.25f; }

struct IQ2_XXS : SignedGroups<BookIq2Xxs, 8, true> {
  static constexpr int weights = 256, bytes = 66, sub_block = 32;

  RAQ_NOINLINE static void quantize(const Float* x, const Float* h, Unit unit, Effort effort,
                                    Bytes<bytes>& block) {
    Signs signs;
    signs.take(x);
    signs.make_even(h);
    CodebookSuperBlock<BookIq2Xxs, iq2_by_32> found;
    found.search(signs.sizes, h, unit, effort);
    block.clear();
    block.put_pair(0, found.d.bits);
    for (int j = 0; j < 8; ++j) block.put(9 + 8 * j, scale_code(found.scales[j]) << 4);
    put_vectors(block, found.codes, signs.bits);
  }

  RAQ_INLINE static void clear_vectors(Bytes<bytes>& block) {
    for (int j = 0; j < 8; ++j) {
      block.clear(2 + 8 * j, 7);
      block.clear(9 + 8 * j, 1, 0x0f);
    }
  }
  RAQ_INLINE static void put_vectors(Bytes<bytes>& block, const Int* codes, const Int* signs) {
    for (int j = 0; j < 8; ++j) {
      Int word = splat(0);
      for (int g = 0; g < 4; ++g) {
        block.put(2 + 8 * j + g, codes[4 * j + g]);
        word |= (signs[4 * j + g] & 0x7f) << (7 * g);
      }
      put_word(block, 6 + 8 * j, word);
    }
  }
  RAQ_INLINE static Scales scales(const Bytes<bytes>& block, int j) {
    return {iq2_scale(half_to_float(block.get_pair(0)), block.get(9 + 8 * j) >> 4), splat(0.0f)};
  }

  RAQ_HD static void dequantize(const Bytes<bytes>& block, Float* x) {
    for (int g = 0; g < 32; ++g) {
      const Int word = get_word(block, 6 + 8 * (g / 4)), code = block.get(2 + 8 * (g / 4) + g % 4);
      const Int signs = signs_of_code((word >> (7 * (g % 4))) & 0x7f);
      const Float scale = scales(block, g / 4).scale;
      signed_values<BookIq2Xxs>(code, scale, signs, 0, x + 8 * g);
    }
  }
};

struct IQ2_XS : SignedGroups<BookIq2Xs, 8, true> {
  static constexpr int weights = 256, bytes = 74, sub_block = 16;

  RAQ_NOINLINE static void quantize(const Float* x, const Float* h, Unit unit, Effort effort,
                                    Bytes<bytes>& block) {
    Signs signs;
    signs.take(x);
    signs.make_even(h);
    CodebookSuperBlock<BookIq2Xs, iq2_by_16> found;
    found.search(signs.sizes, h, unit, effort);
    block.clear();
    block.put_pair(0, found.d.bits);
    put_scale_nibbles(block, 66, found.scales, 16);
    put_vectors(block, found.codes, signs.bits);
  }

  RAQ_INLINE static void clear_vectors(Bytes<bytes>& block) { block.clear(2, 64); }
  RAQ_INLINE static void put_vectors(Bytes<bytes>& block, const Int* codes, const Int* signs) {
    for (int g = 0; g < 32; ++g) block.put_pair(2 + 2 * g, codes[g] | ((signs[g] & 0x7f) << 9));
  }
  RAQ_INLINE static Scales scales(const Bytes<bytes>& block, int j) {
    return {iq2_scale(half_to_float(block.get_pair(0)), get_scale_nibble(block, 66, j)), splat(0.0f)};
  }

  RAQ_HD static void dequantize(const Bytes<bytes>& block, Float* x) {
    for (int g = 0; g < 32; ++g) {
      const Int pair = block.get_pair(2 + 2 * g), signs = signs_of_code(pair >> 9), code = pair & 0x1ff;
      const Float scale = scales(block, g / 2).scale;
      signed_values<BookIq2Xs>(code, scale, signs, 0, x + 8 * g);
    }
  }
};

struct IQ2_S : SignedGroups<BookIq2S, 8, false> {
  static constexpr int weights = 256, bytes = 82, sub_block = 16;

  RAQ_NOINLINE static void quantize(const Float* x, const Float* h, Unit unit, Effort effort,
                                    Bytes<bytes>& block) {
    Signs signs;
    signs.take(x);
    CodebookSuperBlock<BookIq2S, BookShape{16, 31, 0.125f, Shift::none, 43.0f, 0.5f, 2.0f, 0.95f}> found;
    found.search(signs.sizes, h, unit, effort);
    block.clear();
    block.put_pair(0, found.d.bits);
    put_scale_nibbles(block, 74, found.scales, 16);
    put_vectors(block, found.codes, signs.bits);
  }

  RAQ_INLINE static void clear_vectors(Bytes<bytes>& block) { block.clear(2, 72); }
  RAQ_INLINE static void put_vectors(Bytes<bytes>& block, const Int* codes, const Int* signs) {
    for (int g = 0; g < 32; ++g) {
      block.put(2 + g, codes[g] & 0xff);
      block.put(34 + g, signs[g]);
      block.put(66 + g / 4, (codes[g] >> 8) << (2 * (g % 4)));
    }
  }
  RAQ_INLINE static Scales scales(const Bytes<bytes>& block, int j) {
    return {iq2_scale(half_to_float(block.get_pair(0)), get_scale_nibble(block, 74, j)), splat(0.0f)};
  }

  RAQ_HD static void dequantize(const Bytes<bytes>& block, Float* x) {
    for (int g = 0; g < 32; ++g) {
      const Int code = block.get(2 + g) | (((block.get(66 + g / 4) >> (2 * (g % 4))) & 3) << 8);
      const Int signs = block.get(34 + g);
      const Float scale = scales(block, g / 2).scale;
      signed_values<BookIq2S>(code, scale, signs, 0, x + 8 * g);
    }
  }
};

}  // namespace raq::RAQ_LEVEL
