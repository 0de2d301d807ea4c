// What rounding with error feedback (cpu/feedback.hpp) needs of a format.
//
// A weight is scale * level - offset, with `level` one of a few numbers. Beside `quantize` and `dequantize`
// a format with one code for each weight has:
//   Levels                          `round` gives the level nearest to a number
//   sub_block                       weights that share scale and offset
//   scales(block, j)                what sub-block j of an encoded block has
//   code_of(level)                  the code that is stored for a level
//   first_code_byte, code_bytes     where codes are; these bytes hold nothing else
//   put_codes(block, codes)         writes the code of every weight where these bytes are zero
//
// A format whose codes name vectors of a codebook has `sub_block`, `scales` and:
//   group                           weights whose vectors and signs are chosen together
//   Vectors                         the vectors and signs of a block
//   choose(x, h, scale, place, vectors, levels)
//                                   sets those of the group at `place`, for its weights x and importance h
//   clear_vectors(block), put_vectors(block, vectors.codes, vectors.signs)
//   get_fixed(block, vectors)       reads what `choose` leaves as the search set it; absent where nothing is
#pragma once

#include "common/portable.hpp"

namespace raq::RAQ_LEVEL {

struct Scales {
  Float scale, offset;
};

template <class Format>
concept CodePerWeight = requires { typename Format::Levels; };
template <class Format>
concept CodePerGroup = requires { Format::group; };

}  // namespace raq::RAQ_LEVEL
