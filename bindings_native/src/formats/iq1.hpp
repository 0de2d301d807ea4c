// IQ1_S and IQ1_M: 256 weights; groups of 8 name a vector v of -1, 0, 1; w = d * (2 l + 1) * (v + delta),
// delta 1/8 or -1/8; 1.5625 and 1.75 bits per weight.
//
// IQ1_S: l and the sign of delta per 32 weights.
// Bytes: 0 d; 2..33 low eight bits of the vectors; 34..49 per sub-block a pair: upper three bits of its four
// vectors, l at bit 12, bit 15 set for a negative delta.
//
// IQ1_M: l per 16 weights, the sign of delta per group.
// Bytes: 0..31 low eight bits of the vectors; 32..47 four bits per group: three upper bits, then the sign;
// 48..55 four pairs: four l of three bits each, and on top four bits of d, lowest pair first.
#pragma once

#include "formats/iq2.hpp"
#include "search/codebook.hpp"

namespace raq::RAQ_LEVEL {

RAQ_INLINE Float delta_of(Int negative) {
  return select(negative == splat(1), splat(-0.125f), splat(0.125f));
}
RAQ_INLINE void shifted_levels(Int code, Int negative, Float* levels) {
  book_values<BookIq1>(code, levels);
  for (int k = 0; k < 8; ++k) levels[k] += delta_of(negative);
}

// Error feedback; `per_group`, the sign of delta is chosen for every 8 weights.
template <bool per_group>
struct ShiftedGroups {
  static constexpr int group = 8;
  using Vectors = BlockVectors<BookIq1>;

  RAQ_HD static void choose(const Float* x, const Float* h, Float scale, int place, Vectors& found,
                            Float* levels) {
    GroupSearch<BookIq1> search;
    Int &negative = found.signs[place / 8], &code = found.codes[place / 8];
    if constexpr (per_group) {
      Halves halves[2];
      Float gain[2];
      RAQ_ROLLED
      for (int n = 0; n < 2; ++n) {
        search.build(x, h, delta_of(splat(n)));
        gain[n] = search.best(scale, halves[n]);
      }
      const Mask lower = gain[1] > gain[0];
      negative = select(lower, splat(1), splat(0));
      halves[0].first = select(lower, halves[1].first, halves[0].first);
      halves[0].partner = select(lower, halves[1].partner, halves[0].partner);
      code = search.find_again(x, h, delta_of(negative), scale, halves[0]);
    } else {
      search.build(x, h, delta_of(negative));
      code = search.find(scale);
    }
    shifted_levels(code, negative, levels);
  }
};

struct IQ1_S : ShiftedGroups<false> {
  static constexpr int weights = 256, bytes = 50, sub_block = 32;

  RAQ_NOINLINE static void quantize(const Float* x, const Float* h, Unit unit, Effort effort,
                                    Bytes<bytes>& block) {
    CodebookSuperBlock<BookIq1, BookShape{32, 15, 1.0f, Shift::per_sub_block, 1.125f, 0.3f}> found;
    found.search(x, h, unit, effort);
    block.clear();
    block.put_pair(0, found.d.bits);
    for (int j = 0; j < 8; ++j)
      block.put(35 + 2 * j, (scale_code(found.scales[j]) << 4) | (found.negative_shift[4 * j] << 7));
    put_vectors(block, found.codes, found.negative_shift);
  }

  RAQ_INLINE static void clear_vectors(Bytes<bytes>& block) {
    block.clear(2, 32);
    for (int j = 0; j < 8; ++j) {
      block.clear(34 + 2 * j, 1);
      block.clear(35 + 2 * j, 1, 0x0f);
    }
  }
  // Shifts stand beside the scales and stay.
  RAQ_INLINE static void put_vectors(Bytes<bytes>& block, const Int* codes, const Int*) {
    for (int j = 0; j < 8; ++j) {
      Int pair = splat(0);
      for (int g = 0; g < 4; ++g) {
        block.put(2 + 4 * j + g, codes[4 * j + g] & 0xff);
        pair |= (codes[4 * j + g] >> 8) << (3 * g);
      }
      block.put_pair(34 + 2 * j, pair);
    }
  }
  RAQ_INLINE static void get_fixed(const Bytes<bytes>& block, Vectors& vectors) {
    for (int g = 0; g < 32; ++g) vectors.signs[g] = block.get(35 + 2 * (g / 4)) >> 7;
  }
  RAQ_INLINE static Scales scales(const Bytes<bytes>& block, int j) {
    const Float d = half_to_float(block.get_pair(0));
    return {d * to_float(2 * ((block.get(35 + 2 * j) >> 4) & 7) + 1), splat(0.0f)};
  }

  RAQ_HD static void dequantize(const Bytes<bytes>& block, Float* x) {
    for (int g = 0; g < 32; ++g) {
      const Int pair = block.get_pair(34 + 2 * (g / 4));
      const Int code = block.get(2 + g) | (((pair >> (3 * (g % 4))) & 7) << 8);
      const Float scale = scales(block, g / 4).scale;
      shifted_levels(code, pair >> 15, x + 8 * g);
      for (int k = 0; k < 8; ++k) x[8 * g + k] *= scale;
    }
  }
};

struct IQ1_M : ShiftedGroups<true> {
  static constexpr int weights = 256, bytes = 56, sub_block = 16;

  RAQ_NOINLINE static void quantize(const Float* x, const Float* h, Unit unit, Effort effort,
                                    Bytes<bytes>& block) {
    CodebookSuperBlock<BookIq1, BookShape{16, 15, 1.0f, Shift::per_group, 1.125f, 0.3f, 4.0f, 0.84f}> found;
    found.search(x, h, unit, effort);
    block.clear();
    put_vectors(block, found.codes, found.negative_shift);
    for (int p = 0; p < 4; ++p) {
      Int pair = ((found.d.bits >> (4 * p)) & 15) << 12;
      for (int i = 0; i < 4; ++i) pair |= scale_code(found.scales[4 * p + i]) << (3 * i);
      block.put_pair(48 + 2 * p, pair);
    }
  }

  RAQ_INLINE static void clear_vectors(Bytes<bytes>& block) { block.clear(0, 48); }
  RAQ_INLINE static void put_vectors(Bytes<bytes>& block, const Int* codes, const Int* negative) {
    for (int g = 0; g < 32; ++g) {
      block.put(g, codes[g] & 0xff);
      block.put(32 + g / 2, ((codes[g] >> 8) | (negative[g] << 3)) << (4 * (g % 2)));
    }
  }
  RAQ_INLINE static Scales scales(const Bytes<bytes>& block, int j) {
    Int bits = splat(0);
    for (int p = 0; p < 4; ++p) bits |= (block.get_pair(48 + 2 * p) >> 12) << (4 * p);
    const Int odd = 2 * ((block.get_pair(48 + 2 * (j / 4)) >> (3 * (j % 4))) & 7) + 1;
    return {half_to_float(bits) * to_float(odd), splat(0.0f)};
  }

  RAQ_HD static void dequantize(const Bytes<bytes>& block, Float* x) {
    for (int g = 0; g < 32; ++g) {
      const Int high = (block.get(32 + g / 2) >> (4 * (g % 2))) & 15, code = block.get(g) | ((high & 7) << 8);
      const Float scale = scales(block, g / 2).scale;
      shifted_levels(code, high >> 3, x + 8 * g);
      for (int k = 0; k < 8; ++k) x[8 * g + k] *= scale;
    }
  }
};

}  // namespace raq::RAQ_LEVEL
