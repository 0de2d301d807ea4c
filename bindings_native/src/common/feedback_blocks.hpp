// A block under error feedback: scales by the search for its weights as they have become, then codes for a few
// columns at a time, and the errors of these. cpu/feedback.hpp and cuda/kernels.cu are written with it.
#pragma once

#include "common/levels.hpp"
#include "common/tiles.hpp"
#include "effort.hpp"

namespace raq::RAQ_LEVEL {

// A number that is not finite, from weights near the largest float, becomes one that is.
RAQ_INLINE Float bounded(Float value) { return clamp(value, -0x1.fffffep127f, 0x1.fffffep127f); }

// What the weights of a sub-block share: scale and offset, and the unit of their block (see Tile).
struct SubBlock {
  Scales scales;
  Float inverse_unit;
  Float scale_in_units, inverse;  // the scale, and its inverse
};

// What a weight that becomes scale * level - offset leaves to the columns after it, in units of theirs: `pivot`
// is the factor's number on the diagonal.
RAQ_INLINE Float error_of(Float weight, Float level, const SubBlock& shared, float pivot) {
  const Float value = shared.scales.scale * level - shared.scales.offset;
  return bounded((bounded(weight) - value) / pivot);
}

// What was chosen for the weights of a block: `step` of them at a time.
template <class Format>
struct Chosen;

template <CodePerWeight Format>
struct Chosen<Format> {
  static constexpr int step = 1;
  Int codes[Format::weights];

  RAQ_INLINE void start(const Bytes<Format::bytes>&) {}
  RAQ_INLINE void choose(const Float* weight, const Float*, const SubBlock& shared, int place, Float* level) {
    const Float position = ((weight[0] + shared.scales.offset) * shared.inverse_unit) * shared.inverse;
    level[0] = Format::Levels::round(position);
    codes[place] = Format::code_of(level[0]);
  }
  RAQ_INLINE void write(Bytes<Format::bytes>& block) const {
    block.clear(Format::first_code_byte, Format::code_bytes);
    Format::put_codes(block, codes);
  }
};

template <CodePerGroup Format>
struct Chosen<Format> {
  static constexpr int step = Format::group;
  typename Format::Vectors vectors;

  RAQ_INLINE void start(const Bytes<Format::bytes>& block) {
    if constexpr (requires { Format::get_fixed(block, vectors); }) Format::get_fixed(block, vectors);
  }
  RAQ_NOINLINE void choose(const Float* weights, const Float* h, const SubBlock& shared, int place,
                           Float* levels) {
    Float x[step];
    // What feedback made of a weight may be beyond all units; its square must stay a number.
    for (int i = 0; i < step; ++i) x[i] = clamp(weights[i] * shared.inverse_unit, -0x1p40f, 0x1p40f);
    Format::choose(x, h, shared.scale_in_units, place, vectors, levels);
  }
  RAQ_INLINE void write(Bytes<Format::bytes>& block) const {
    Format::clear_vectors(block);
    Format::put_vectors(block, vectors.codes, vectors.signs);
  }
};

template <class Format>
struct OpenBlock {
  static constexpr int K = Format::weights;
  Bytes<Format::bytes> bytes;
  Float inverse_unit;
  Chosen<Format> chosen;

  // Bounds the weights, `stride` apart, and searches their scales. The tile keeps the importance for `choose`.
  RAQ_INLINE void open(Float* weights, int stride, const float* importance, Effort effort, Tile<K>& tile) {
    RAQ_UNROLL
    for (int k = 0; k < K; ++k) weights[k * stride] = bounded(weights[k * stride]);
    tile.load_columns(weights, stride, importance);
    Format::quantize(tile.weights, tile.importance, tile.unit, effort, bytes);
    inverse_unit = tile.unit.inverse;
    chosen.start(bytes);
  }
  RAQ_INLINE SubBlock sub_block(int number) const {
    const Scales scales = Format::scales(bytes, number);
    // In the unit of the block, as in the search: the inverse of the scale itself may overflow.
    const Float scale = scales.scale * inverse_unit;
    return {scales, inverse_unit, scale, inverse_or_zero(scale)};
  }
  RAQ_INLINE void close() { chosen.write(bytes); }
};

}  // namespace raq::RAQ_LEVEL
