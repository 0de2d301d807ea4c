// IQ3_XXS and IQ3_S: 256 weights in sub-blocks of 32; groups of 4 name a vector of eight magnitudes; signs
// are stored apart; 3.0625 and 3.4375 bits per weight.
//
// IQ3_XXS: w = d / 4 * (2 l + 1) * magnitude * sign.
// Bytes: 0 d; 2..65 vectors; 66..97 a word per sub-block: four 7-bit sign codes (as in
// IQ2_XXS), l in the top four bits.
//
// IQ3_S: w = d * (2 l + 1) * magnitude * sign.
// Bytes: 0 d; 2..65 low eight bits of the vectors; 66..73 their ninth bits; 74..105 signs;
// 106..109 l, four bits per sub-block.
#pragma once

#include "formats/iq2.hpp"

namespace raq::RAQ_LEVEL {

struct IQ3_XXS : SignedGroups<BookIq3Xxs, 8, true> {
  static constexpr int weights = 256, bytes = 98, sub_block = 32;

  RAQ_NOINLINE static void quantize(const Float* x, const Float* h, Unit unit, Effort effort,
                                    Bytes<bytes>& block) {
    Signs signs;
    signs.take(x);
    signs.make_even(h);
    CodebookSuperBlock<BookIq3Xxs, BookShape{32, 31, 0.25f, Shift::none, 62.0f, 0.65f}> found;
    found.search(signs.sizes, h, unit, effort);
    block.clear();
    block.put_pair(0, found.d.bits);
    for (int j = 0; j < 8; ++j) block.put(69 + 4 * j, scale_code(found.scales[j]) << 4);
    put_vectors(block, found.codes, signs.bits);
  }

  RAQ_INLINE static void clear_vectors(Bytes<bytes>& block) {
    block.clear(2, 64);
    for (int j = 0; j < 8; ++j) {
      block.clear(66 + 4 * j, 3);
      block.clear(69 + 4 * j, 1, 0x0f);
    }
  }
  RAQ_INLINE static void put_vectors(Bytes<bytes>& block, const Int* codes, const Int* signs) {
    for (int g = 0; g < 64; ++g) block.put(2 + g, codes[g]);
    for (int j = 0; j < 8; ++j) {
      Int word = splat(0);
      for (int g = 0; g < 4; ++g) word |= (signs[4 * j + g] & 0x7f) << (7 * g);
      put_word(block, 66 + 4 * j, word);
    }
  }
  RAQ_INLINE static Scales scales(const Bytes<bytes>& block, int j) {
    const Float d = half_to_float(block.get_pair(0));
    return {d * (0.5f + to_float(block.get(69 + 4 * j) >> 4)) * 0.5f, splat(0.0f)};
  }

  RAQ_HD static void dequantize(const Bytes<bytes>& block, Float* x) {
    for (int g = 0; g < 64; ++g) {
      const Int word = get_word(block, 66 + 4 * (g / 8)), code = block.get(2 + g);
      const Int signs = signs_of_code((word >> (7 * (g / 2 % 4))) & 0x7f);
      const Float scale = scales(block, g / 8).scale;
      signed_values<BookIq3Xxs>(code, scale, signs, 4 * (g % 2), x + 4 * g);
    }
  }
};

struct IQ3_S : SignedGroups<BookIq3S, 4, false> {
  static constexpr int weights = 256, bytes = 110, sub_block = 32;

  RAQ_NOINLINE static void quantize(const Float* x, const Float* h, Unit unit, Effort effort,
                                    Bytes<bytes>& block) {
    Signs signs;
    signs.take(x);
    CodebookSuperBlock<BookIq3S, BookShape{32, 31, 1.0f, Shift::none, 15.0f, 0.65f}> found;
    found.search(signs.sizes, h, unit, effort);
    block.clear();
    block.put_pair(0, found.d.bits);
    put_scale_nibbles(block, 106, found.scales, 8);
    put_vectors(block, found.codes, signs.bits);
  }

  RAQ_INLINE static void clear_vectors(Bytes<bytes>& block) { block.clear(2, 104); }
  RAQ_INLINE static void put_vectors(Bytes<bytes>& block, const Int* codes, const Int* signs) {
    for (int g = 0; g < 64; ++g) {
      block.put(2 + g, codes[g] & 0xff);
      block.put(66 + g / 8, (codes[g] >> 8) << (g % 8));
    }
    for (int g = 0; g < 32; ++g) block.put(74 + g, signs[g]);
  }
  RAQ_INLINE static Scales scales(const Bytes<bytes>& block, int j) {
    const Float d = half_to_float(block.get_pair(0));
    return {d * to_float(1 + 2 * get_scale_nibble(block, 106, j)), splat(0.0f)};
  }

  RAQ_HD static void dequantize(const Bytes<bytes>& block, Float* x) {
    for (int g = 0; g < 64; ++g) {
      const Int code = block.get(2 + g) | (((block.get(66 + g / 8) >> (g % 8)) & 1) << 8);
      const Int signs = block.get(74 + g / 2);
      const Float scale = scales(block, g / 8).scale;
      signed_values<BookIq3S>(code, scale, signs, 4 * (g % 2), x + 4 * g);
    }
  }
};

}  // namespace raq::RAQ_LEVEL
