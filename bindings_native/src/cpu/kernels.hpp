// The formats as plain functions over whole rows, one set per instruction set of the processor.
//
// Rules: single-threaded; rows are complete, so their blocks follow each other without gaps; nothing is
// checked here but that weights are finite.
#pragma once

#include "effort.hpp"
#include "rows.hpp"

namespace raq {

constexpr std::int64_t all_finite = -1;

struct Kernels {
  // Both return the position of the first non-finite weight in the rows, or all_finite. If there is such a
  // weight, what they wrote must not be used. `measure` adds to the sums of each row.
  std::int64_t (*quantize)(Rows rows, Effort effort, std::uint8_t* blocks);
  std::int64_t (*measure)(Rows rows, Effort effort, ErrorSums* sums_of_rows);
  void (*dequantize)(const std::uint8_t* blocks, std::int64_t block_count, float* weights);
};

// Tables in the order of quant_types.def. Each comes from its own copy of kernels.cpp.
const Kernels* kernels_baseline();
#if defined(RAQ_X86)
const Kernels* kernels_v3();
const Kernels* kernels_v4();
#endif

}  // namespace raq
