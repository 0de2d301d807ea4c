// Q3_K: 256 weights, 16 sub-blocks of 16; w = d * scale * code; code -4..3, scale -32..31; 3.4375 bits per
// weight.
//
// Bytes: 0..31 third bits (byte l, bit b: weight 32 b + l; SET means code >= 0); 32..95 low two bits of
// code + 4, laid out as in Q2_K; 96..107 scales + 32: low nibbles of 0..7 and, in the high nibbles, of 8..15
// in bytes 0..7; their upper two bits in byte 8 + j % 4 at bit 2 (j / 4); 108 d.
#pragma once

#include "formats/q2_k.hpp"
#include "search/symmetric.hpp"

namespace raq::RAQ_LEVEL {

struct Q3_K {
  static constexpr int weights = 256, bytes = 110;
  static constexpr int sub_block = 16, first_code_byte = 0, code_bytes = 96;
  using Levels = Whole<-4, 3>;

  RAQ_NOINLINE static void quantize(const Float* x, const Float* h, Unit unit, Effort effort,
                                    Bytes<bytes>& block) {
    SymmetricSuperBlock<Levels, SymmetricShape{16, 16, -32, 31}> found;
    found.search(x, h, unit, scale_search(effort));
    Int codes[weights];
    to_codes(found.codes, splat(4), codes, weights);
    block.clear();
    put_codes(block, codes);
    for (int j = 0; j < 16; ++j) {
      const Int scale = truncate(found.scales[j]) + 32;
      block.put(96 + j % 8, (scale & 15) << (4 * (j / 8)));
      block.put(104 + j % 4, (scale >> 4) << (2 * (j / 4)));
    }
    block.put_pair(108, found.d.bits);
  }

  RAQ_INLINE static Int code_of(Float level) { return truncate(level) + 4; }
  RAQ_INLINE static void put_codes(Bytes<bytes>& block, const Int* codes) {
    for (int k = 0; k < weights; ++k) block.put(k % 32, (codes[k] >> 2) << (k / 32));
    put_bit_pairs(block, 32, codes);
  }
  RAQ_INLINE static Scales scales(const Bytes<bytes>& block, int j) {
    const Int low = (block.get(96 + j % 8) >> (4 * (j / 8))) & 15;
    const Int high = (block.get(104 + j % 4) >> (2 * (j / 4))) & 3;
    return {half_to_float(block.get_pair(108)) * to_float((low | (high << 4)) - 32), splat(0.0f)};
  }

  RAQ_HD static void dequantize(const Bytes<bytes>& block, Float* x) {
    for (int j = 0; j < 16; ++j) {
      const Float scale = scales(block, j).scale;
      for (int k = 16 * j; k < 16 * (j + 1); ++k) {
        const Int third = (block.get(k % 32) >> (k / 32)) & 1;
        x[k] = scale * to_float((get_bit_pair(block, 32, k) | (third << 2)) - 4);
      }
    }
  }
};

}  // namespace raq::RAQ_LEVEL
