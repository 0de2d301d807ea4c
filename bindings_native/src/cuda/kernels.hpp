// The kernels as functions that queue them on a stream of the current device. All pointers are to its memory.
#pragma once

#include <cuda_runtime.h>

#include "quantizer.hpp"

namespace raq::cuda {

// Position of the first weight that is not finite, counted from the first of `rows`;
// `no_position` if there is none.
using Position = unsigned long long;
constexpr Position no_position = ~0ull;

struct Wave;

struct Kernels {
  // first_bad becomes the smaller of itself and the first bad position.
  void (*quantize)(Rows rows, Effort effort, std::uint8_t* blocks, Position* first_bad, cudaStream_t stream);
  void (*dequantize)(const std::uint8_t* blocks, std::int64_t block_count, float* weights,
                     cudaStream_t stream);
  // One ErrorSums for each row, added up block after block.
  void (*measure)(Rows rows, std::int64_t rows_per_chunk, Effort effort, ErrorSums* sums_of_rows,
                  Position* first_bad, cudaStream_t stream);
  // Rounds the spans of a wave (cuda/feedback.hpp). Null for formats that store every weight by itself.
  void (*round_spans)(const Wave& wave, Effort effort, cudaStream_t stream);
};

const Kernels& kernels(const QuantType& type);

}  // namespace raq::cuda
