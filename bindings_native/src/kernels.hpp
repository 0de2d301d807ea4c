// The formats as plain functions over whole rows, one set per instruction-set level of the CPU.
//
// Rules: single-threaded; rows are complete, so their blocks follow each other without gaps; nothing is
// checked here but that weights are finite.
#pragma once

#include <cstdint>

#include "effort.hpp"

namespace raq {

struct Rows {
  const float* weights;
  const float* importance;  // one value per column, or null: all ones
  std::int64_t count;
  std::int64_t length;
};

// Sums over the weights w of some rows, with r what w becomes, and h the importance of its column.
struct ErrorSums {
  double weighted_squared_error = 0;  // h (w - r)^2
  double weighted_energy = 0;         // h w^2
  double squared_error = 0;           // (w - r)^2
  double energy = 0;                  // w^2
  double restored_energy = 0;         // r^2
  double product = 0;                 // w r
  double max_error = 0;               // largest |w - r|

  void add(const ErrorSums& other) {
    weighted_squared_error += other.weighted_squared_error;
    weighted_energy += other.weighted_energy;
    squared_error += other.squared_error;
    energy += other.energy;
    restored_energy += other.restored_energy;
    product += other.product;
    max_error = other.max_error > max_error ? other.max_error : max_error;
  }
};

constexpr std::int64_t all_finite = -1;

struct Kernels {
  // Both return the position of the first non-finite weight in the rows, or all_finite; what they wrote is
  // then void. `measure` adds to the sums of each row.
  std::int64_t (*quantize)(Rows rows, Effort effort, std::uint8_t* blocks);
  std::int64_t (*measure)(Rows rows, Effort effort, ErrorSums* sums_of_rows);
  void (*dequantize)(const std::uint8_t* blocks, std::int64_t block_count, float* weights);
};

// Indexed like quant_types.def. Each lives in its own copy of kernels_cpu.cpp.
const Kernels* kernels_baseline();
#if defined(RAQ_X86)
const Kernels* kernels_v3();
const Kernels* kernels_v4();
#endif

}  // namespace raq
