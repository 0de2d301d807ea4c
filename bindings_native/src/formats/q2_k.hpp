// Q2_K: 256 weights, 16 sub-blocks of 16; w = d * scale * code - dmin * offset; code 0..3, scale and offset
// 0..15; 2.625 bits per weight.
//
// Bytes: 0..15 per sub-block scale (low nibble) and offset (high nibble); 16..79 codes; 80 d; 82 dmin.
// Codes: each half of 128 weights has 32 bytes; bit pair p of byte l is weight 32 p + l of the half.
#pragma once

#include "common/levels.hpp"
#include "effort.hpp"
#include "search/affine.hpp"

namespace raq::RAQ_LEVEL {

// 64 bytes from offset on: two bits, from bit `shift` on, of 256 codes, as in Q2_K, Q3_K, Q6_K and TQ2_0.
template <int Count>
RAQ_INLINE void put_bit_pairs(Bytes<Count>& block, int offset, const Int* codes, int shift = 0) {
  for (int half = 0; half < 2; ++half)
    for (int l = 0; l < 32; ++l) {
      const Int* c = codes + 128 * half + l;
      Int byte = splat(0);
      for (int p = 0; p < 4; ++p) byte |= ((c[32 * p] >> shift) & 3) << (2 * p);
      block.put(offset + 32 * half + l, byte);
    }
}
template <int Count>
RAQ_INLINE Int get_bit_pair(const Bytes<Count>& block, int offset, int k) {
  return (block.get(offset + 32 * (k / 128) + k % 32) >> (2 * (k % 128 / 32))) & 3;
}

RAQ_INLINE void to_codes(const Float* values, Int shift, Int* codes, int count) {
  for (int k = 0; k < count; ++k) codes[k] = truncate(values[k]) + shift;
}

struct Q2_K {
  static constexpr int weights = 256, bytes = 84;
  static constexpr int sub_block = 16, first_code_byte = 16, code_bytes = 64;
  using Levels = Whole<0, 3>;

  RAQ_NOINLINE static void quantize(const Float* x, const Float* h, Unit unit, Effort effort,
                                    Bytes<bytes>& block) {
    AffineSuperBlock<AffineShape{16, 16, 3, 15}> found;
    found.search(x, h, unit, effort);
    Int codes[weights];
    to_codes(found.codes, splat(0), codes, weights);
    block.clear();
    for (int j = 0; j < 16; ++j) block.put(j, truncate(found.scales[j]) | (truncate(found.offsets[j]) << 4));
    put_codes(block, codes);
    block.put_pair(80, found.d.bits);
    block.put_pair(82, found.dmin.bits);
  }

  RAQ_INLINE static Int code_of(Float level) { return truncate(level); }
  RAQ_INLINE static void put_codes(Bytes<bytes>& block, const Int* codes) { put_bit_pairs(block, 16, codes); }
  RAQ_INLINE static Scales scales(const Bytes<bytes>& block, int j) {
    const Float d = half_to_float(block.get_pair(80)), dmin = half_to_float(block.get_pair(82));
    return {d * to_float(block.get(j) & 15), dmin * to_float(block.get(j) >> 4)};
  }

  RAQ_HD static void dequantize(const Bytes<bytes>& block, Float* x) {
    for (int j = 0; j < 16; ++j) {
      const Scales s = scales(block, j);
      for (int k = 16 * j; k < 16 * (j + 1); ++k)
        x[k] = s.scale * to_float(get_bit_pair(block, 16, k)) - s.offset;
    }
  }
};

}  // namespace raq::RAQ_LEVEL
