// Q6_K: 256 weights, 16 sub-blocks of 16; w = d * scale * code; code -32..31, scale -128..127; 6.5625 bits
// per weight.
//
// Bytes: 0..127 low four bits of code + 32, 128..191 upper two bits, 192..207 scales, 208 d. In each half of
// 128 weights (64 and 32 bytes): low byte l has weights l and l + 64, low byte l + 32 has weights l + 32 and
// l + 96; bit pairs of upper byte l belong to l, l + 32, l + 64, l + 96.
#pragma once

#include "formats/q2_k.hpp"
#include "search/symmetric.hpp"

namespace raq::RAQ_LEVEL {

struct Q6_K {
  static constexpr int weights = 256, bytes = 210;
  static constexpr int sub_block = 16, first_code_byte = 0, code_bytes = 192;
  using Levels = Whole<-32, 31>;

  RAQ_NOINLINE static void quantize(const Float* x, const Float* h, Unit unit, Effort effort,
                                    Bytes<bytes>& block) {
    SymmetricSuperBlock<Levels, SymmetricShape{16, 16, -128, 127}> found;
    found.search(x, h, unit, scale_search(effort));
    Int codes[weights];
    to_codes(found.codes, splat(32), codes, weights);
    block.clear();
    put_codes(block, codes);
    for (int j = 0; j < 16; ++j) block.put(192 + j, truncate(found.scales[j]) & 0xff);
    block.put_pair(208, found.d.bits);
  }

  RAQ_INLINE static Int code_of(Float level) { return truncate(level) + 32; }
  RAQ_INLINE static void put_codes(Bytes<bytes>& block, const Int* codes) {
    for (int half = 0; half < 2; ++half)
      for (int l = 0; l < 64; ++l) {
        const Int* c = codes + 128 * half + l;
        block.put(64 * half + l, (c[0] & 15) | ((c[64] & 15) << 4));
      }
    put_bit_pairs(block, 128, codes, 4);
  }
  RAQ_INLINE static Scales scales(const Bytes<bytes>& block, int j) {
    return {half_to_float(block.get_pair(208)) * to_float(block.get_signed(192 + j)), splat(0.0f)};
  }

  RAQ_HD static void dequantize(const Bytes<bytes>& block, Float* x) {
    for (int j = 0; j < 16; ++j) {
      const Float scale = scales(block, j).scale;
      for (int k = 16 * j; k < 16 * (j + 1); ++k) {
        const Int low = (block.get(64 * (k / 128) + k % 64) >> (4 * (k % 128 / 64))) & 15;
        x[k] = scale * to_float((low | (get_bit_pair(block, 128, k) << 4)) - 32);
      }
    }
  }
};

}  // namespace raq::RAQ_LEVEL
