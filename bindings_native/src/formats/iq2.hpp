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

#include "search/codebook.hpp"

namespace raq::RAQ_LEVEL {

// The signs of groups of 8, and the magnitudes to search vectors for.
struct Signs {
  Float sizes[256];
  Int bits[32];

  RAQ_HD void take(const Float* x) {
    for (int g = 0; g < 32; ++g) {
      bits[g] = splat(0);
      for (int k = 0; k < 8; ++k) {
        bits[g] |= select(x[8 * g + k] < splat(0.0f), splat(1 << k), splat(0));
        sizes[8 * g + k] = magnitude(x[8 * g + k]);
      }
    }
  }

  // Where the number of negative weights is odd, the sign that costs least is turned. The search gets a
  // negative magnitude there, and so prefers a small level.
  RAQ_HD void make_even(const Float* h) {
    for (int g = 0; g < 32; ++g) {
      Int cheapest = splat(0);
      Float least = h[8 * g] * sizes[8 * g];
      for (int k = 1; k < 8; ++k) {
        const Float cost = h[8 * g + k] * sizes[8 * g + k];
        const Mask lower = cost < least;
        least = select(lower, cost, least);
        cheapest = select(lower, splat(k), cheapest);
      }
      const Int odd = parity(bits[g]);
      bits[g] ^= odd << cheapest;
      for (int k = 0; k < 8; ++k) {
        const Mask turned = (odd == splat(1)) & (cheapest == splat(k));
        sizes[8 * g + k] = select(turned, splat(0.0f) - sizes[8 * g + k], sizes[8 * g + k]);
      }
    }
  }

  RAQ_INLINE static Int parity(Int bits) {
    bits ^= bits >> 4;
    bits ^= bits >> 2;
    bits ^= bits >> 1;
    return bits & 1;
  }
};

// All eight signs of a 7-bit sign code.
RAQ_INLINE Int signs_of_code(Int code) { return code | (Signs::parity(code) << 7); }

RAQ_INLINE Float with_sign(Float value, Int signs, int k) {
  return select(((signs >> k) & 1) == splat(1), splat(0.0f) - value, value);
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

constexpr BookShape iq2_by_32{32, 31, 0.125f, Shift::none, 43.0f, 0.5f};
constexpr BookShape iq2_by_16{16, 31, 0.125f, Shift::none, 43.0f, 0.5f};

RAQ_INLINE Float iq2_scale(Float d, Int l) { return d * (0.5f + to_float(l)) * 0.25f; }

struct IQ2_XXS {
  static constexpr int weights = 256, bytes = 66;

  RAQ_NOINLINE static void quantize(const Float* x, const Float* h, Unit unit, Effort effort,
                                    Bytes<bytes>& block) {
    Signs signs;
    signs.take(x);
    signs.make_even(h);
    CodebookSuperBlock<BookIq2Xxs, iq2_by_32> found;
    found.search(signs.sizes, h, unit, effort);
    block.clear();
    block.put_pair(0, found.d.bits);
    for (int j = 0; j < 8; ++j) {
      Int word = scale_code(found.scales[j]) << 28;
      for (int g = 0; g < 4; ++g) {
        block.put(2 + 8 * j + g, found.codes[4 * j + g]);
        word |= (signs.bits[4 * j + g] & 0x7f) << (7 * g);
      }
      put_word(block, 6 + 8 * j, word);
    }
  }

  RAQ_HD static void dequantize(const Bytes<bytes>& block, Float* x) {
    const Float d = half_to_float(block.get_pair(0));
    for (int g = 0; g < 32; ++g) {
      const Int word = get_word(block, 6 + 8 * (g / 4)), code = block.get(2 + 8 * (g / 4) + g % 4);
      const Int signs = signs_of_code((word >> (7 * (g % 4))) & 0x7f);
      const Float scale = iq2_scale(d, (word >> 28) & 15);
      for (int k = 0; k < 8; ++k) x[8 * g + k] = with_sign(scale * book_value<BookIq2Xxs>(code, k), signs, k);
    }
  }
};

struct IQ2_XS {
  static constexpr int weights = 256, bytes = 74;

  RAQ_NOINLINE static void quantize(const Float* x, const Float* h, Unit unit, Effort effort,
                                    Bytes<bytes>& block) {
    Signs signs;
    signs.take(x);
    signs.make_even(h);
    CodebookSuperBlock<BookIq2Xs, iq2_by_16> found;
    found.search(signs.sizes, h, unit, effort);
    block.clear();
    block.put_pair(0, found.d.bits);
    for (int g = 0; g < 32; ++g) block.put_pair(2 + 2 * g, found.codes[g] | ((signs.bits[g] & 0x7f) << 9));
    put_scale_nibbles(block, 66, found.scales, 16);
  }

  RAQ_HD static void dequantize(const Bytes<bytes>& block, Float* x) {
    const Float d = half_to_float(block.get_pair(0));
    for (int g = 0; g < 32; ++g) {
      const Int pair = block.get_pair(2 + 2 * g), signs = signs_of_code(pair >> 9), code = pair & 0x1ff;
      const Float scale = iq2_scale(d, get_scale_nibble(block, 66, g / 2));
      for (int k = 0; k < 8; ++k) x[8 * g + k] = with_sign(scale * book_value<BookIq2Xs>(code, k), signs, k);
    }
  }
};

struct IQ2_S {
  static constexpr int weights = 256, bytes = 82;

  RAQ_NOINLINE static void quantize(const Float* x, const Float* h, Unit unit, Effort effort,
                                    Bytes<bytes>& block) {
    Signs signs;
    signs.take(x);
    CodebookSuperBlock<BookIq2S, BookShape{16, 31, 0.125f, Shift::none, 43.0f, 0.5f, 2.0f, 0.95f}> found;
    found.search(signs.sizes, h, unit, effort);
    block.clear();
    block.put_pair(0, found.d.bits);
    for (int g = 0; g < 32; ++g) {
      block.put(2 + g, found.codes[g] & 0xff);
      block.put(34 + g, signs.bits[g]);
      block.put(66 + g / 4, (found.codes[g] >> 8) << (2 * (g % 4)));
    }
    put_scale_nibbles(block, 74, found.scales, 16);
  }

  RAQ_HD static void dequantize(const Bytes<bytes>& block, Float* x) {
    const Float d = half_to_float(block.get_pair(0));
    for (int g = 0; g < 32; ++g) {
      const Int code = block.get(2 + g) | (((block.get(66 + g / 4) >> (2 * (g % 4))) & 3) << 8);
      const Int signs = block.get(34 + g);
      const Float scale = iq2_scale(d, get_scale_nibble(block, 74, g / 2));
      for (int k = 0; k < 8; ++k) x[8 * g + k] = with_sign(scale * book_value<BookIq2S>(code, k), signs, k);
    }
  }
};

}  // namespace raq::RAQ_LEVEL
