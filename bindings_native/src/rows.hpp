// What the kernels of every target take and what they measure.
//
// This header is compiled once per instruction set, so it includes nothing of the standard library that could
// define a function (cpu/kernels.cpp says why).
#pragma once

#include <cstdint>

namespace raq {

// Whole rows of a tensor, one after the other.
struct Rows {
  const float* weights;
  const float* importance;  // one value per column, or null: all ones
  std::int64_t count;
  std::int64_t length;
};

// Sums over the weights w of some rows, with r the restored weight and h the importance of its column.
struct ErrorSums {
  double weighted_squared_error = 0;  // h (w - r)^2
  double weighted_energy = 0;         // h w^2

  void add(const ErrorSums& other) {
    weighted_squared_error += other.weighted_squared_error;
    weighted_energy += other.weighted_energy;
  }
};

}  // namespace raq
