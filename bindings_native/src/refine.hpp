// Codes chosen again after error feedback.
#pragma once

#include "quantizer.hpp"

namespace raq {

// Changes codes of `blocks`, which `rows` were rounded to, where that lowers tr(M E H E^T) for the errors E of the
// restored weights: `gram` is H, `row_gram` is M in the order of the rows, or null for the identity; both symmetric
// with a positive diagonal. Scales stay. Every code is visited `sweeps` times; threads and instruction sets change no byte.
// Throws std::invalid_argument for a number that is not finite, for a diagonal that is not positive, and for a type
// that stores every weight by itself.
void refine_codes(const QuantType& type, const Rows& rows, const float* gram, const float* row_gram,
                  int sweeps, const Options& options, std::uint8_t* blocks);

}  // namespace raq
