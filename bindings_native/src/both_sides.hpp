// Error feedback between columns and between rows.
#pragma once

#include "quantizer.hpp"

namespace raq {

// As `quantize_with_feedback`, with the errors of rows fed forward into later rows too: `row_factor` is U of
// M^-1 = U^T U for M the mean of g g^T over the gradients g at the outputs, row after row, in the order of `rows`.
// Rows are rounded in groups of `feedback_rows`, between which errors are fed; threads and instruction sets change
// no byte. Throws std::invalid_argument as `quantize_with_feedback` does, and for a row factor that is none.
void quantize_on_both_sides(const QuantType& type, const Rows& rows, const float* factor,
                            const float* row_factor, const Options& options, std::uint8_t* blocks);

constexpr std::int64_t feedback_rows = 16;

}  // namespace raq
