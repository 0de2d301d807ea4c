// Q4_K and Q5_K: 256 weights, 8 sub-blocks of 32; w = d * scale * code - dmin * offset; scale and offset
// 0..63; code 0..15 or 0..31; 4.5 and 5.5 bits per weight.
//
// Bytes of both: 0 d, 2 dmin, 4..15 scales and offsets of six bits. Sub-blocks 0..3 have theirs in the low
// six bits of bytes 0..3 and 4..7 of those twelve; sub-blocks 4..7 have the low four bits in the nibbles of
// bytes 8..11 and the upper two on top of bytes 0..3 (scale) and 4..7 (offset).
//
// Then Q4_K: 16..143 codes: 32 bytes per 64 weights, low nibbles the first 32, high nibbles the second.
//
// Or Q5_K: 16..47 fifth bits (byte l, bit j: weight l of sub-block j), 48..175 low four bits as in Q4_K.
#pragma once

#include "formats/q2_k.hpp"

namespace raq::RAQ_LEVEL {

template <int Count>
RAQ_INLINE void put_six_bits(Bytes<Count>& block, const Float* scales, const Float* offsets) {
  for (int j = 0; j < 8; ++j) {
    const Int scale = truncate(scales[j]), offset = truncate(offsets[j]);
    block.put(j < 4 ? 4 + j : 8 + j, j < 4 ? scale : (scale & 15) | ((offset & 15) << 4));
    block.put(j < 4 ? 8 + j : j, j < 4 ? offset : (scale >> 4) << 6);
    if (j >= 4) block.put(4 + j, (offset >> 4) << 6);
  }
}
template <int Count>
RAQ_INLINE Int get_scale(const Bytes<Count>& block, int j) {
  return j < 4 ? block.get(4 + j) & 63 : (block.get(8 + j) & 15) | ((block.get(j) >> 6) << 4);
}
template <int Count>
RAQ_INLINE Int get_offset(const Bytes<Count>& block, int j) {
  return j < 4 ? block.get(8 + j) & 63 : (block.get(8 + j) >> 4) | ((block.get(4 + j) >> 6) << 4);
}
template <int Count>
RAQ_INLINE void put_nibble_rows(Bytes<Count>& block, int start, const Int* codes) {
  for (int c = 0; c < 4; ++c)
    for (int l = 0; l < 32; ++l)
      block.put(start + 32 * c + l, (codes[64 * c + l] & 15) | ((codes[64 * c + 32 + l] & 15) << 4));
}
template <int Count>
RAQ_INLINE Int get_row_nibble(const Bytes<Count>& block, int start, int k) {
  return (block.get(start + 32 * (k / 64) + k % 32) >> (4 * (k / 32 % 2))) & 15;
}

// What Q4_K and Q5_K share: codes are levels from 0 to `high`.
template <int high>
struct SixBitScales {
  static constexpr int weights = 256, sub_block = 32, first_code_byte = 16;
  using Levels = Whole<0, high>;

  RAQ_INLINE static Int code_of(Float level) { return truncate(level); }
  template <int Count>
  RAQ_INLINE static Scales scales(const Bytes<Count>& block, int j) {
    const Float d = half_to_float(block.get_pair(0)), dmin = half_to_float(block.get_pair(2));
    return {d * to_float(get_scale(block, j)), dmin * to_float(get_offset(block, j))};
  }
  // Writes all but the codes, which are returned.
  template <int Count>
  RAQ_HD static void search(const Float* x, const Float* h, Unit unit, Effort effort, Bytes<Count>& block,
                            Int* codes) {
    AffineSuperBlock<AffineShape{8, 32, high, 63}> found;
    found.search(x, h, unit, effort);
    to_codes(found.codes, splat(0), codes, weights);
    block.clear();
    block.put_pair(0, found.d.bits);
    block.put_pair(2, found.dmin.bits);
    put_six_bits(block, found.scales, found.offsets);
  }
};

struct Q4_K : SixBitScales<15> {
  static constexpr int bytes = 144, code_bytes = 128;

  RAQ_NOINLINE static void quantize(const Float* x, const Float* h, Unit unit, Effort effort,
                                    Bytes<bytes>& block) {
    Int codes[weights];
    search(x, h, unit, effort, block, codes);
    put_codes(block, codes);
  }

  RAQ_INLINE static void put_codes(Bytes<bytes>& block, const Int* codes) {
    put_nibble_rows(block, 16, codes);
  }

  RAQ_HD static void dequantize(const Bytes<bytes>& block, Float* x) {
    for (int j = 0; j < 8; ++j) {
      const Scales s = scales(block, j);
      for (int k = 32 * j; k < 32 * (j + 1); ++k)
        x[k] = s.scale * to_float(get_row_nibble(block, 16, k)) - s.offset;
    }
  }
};

struct Q5_K : SixBitScales<31> {
  static constexpr int bytes = 176, code_bytes = 160;

  RAQ_NOINLINE static void quantize(const Float* x, const Float* h, Unit unit, Effort effort,
                                    Bytes<bytes>& block) {
    Int codes[weights];
    search(x, h, unit, effort, block, codes);
    put_codes(block, codes);
  }

  RAQ_INLINE static void put_codes(Bytes<bytes>& block, const Int* codes) {
    for (int k = 0; k < weights; ++k) block.put(16 + k % 32, (codes[k] >> 4) << (k / 32));
    put_nibble_rows(block, 48, codes);
  }

  RAQ_HD static void dequantize(const Bytes<bytes>& block, Float* x) {
    for (int j = 0; j < 8; ++j) {
      const Scales s = scales(block, j);
      for (int k = 32 * j; k < 32 * (j + 1); ++k) {
        const Int fifth = (block.get(16 + k % 32) >> j) & 1;
        x[k] = s.scale * to_float(get_row_nibble(block, 48, k) | (fifth << 4)) - s.offset;
      }
    }
  }
};

}  // namespace raq::RAQ_LEVEL
