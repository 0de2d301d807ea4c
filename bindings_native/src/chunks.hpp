// How rows are divided into chunks: by row length alone, never by the number of threads, devices or parts.
//
// Sums of errors are added within a chunk block after block, then chunk after chunk, so they are the same to
// the last bit wherever they are computed.
#pragma once

#include <algorithm>
#include <cstdint>

namespace raq {

// A quarter of a megabyte of weights: small enough that a chunk stays in the second-level cache
// while several types are measured.
constexpr std::int64_t chunk_weights = 65536;

struct Chunks {
  std::int64_t rows, rows_per_chunk, count;
  explicit Chunks(std::int64_t rows_, std::int64_t row_length)
      : rows(rows_),
        rows_per_chunk(std::max<std::int64_t>(1, chunk_weights / std::max<std::int64_t>(1, row_length))),
        count((rows_ + rows_per_chunk - 1) / rows_per_chunk) {}
  std::int64_t first(std::int64_t chunk) const { return chunk * rows_per_chunk; }
  std::int64_t size(std::int64_t chunk) const { return std::min(rows_per_chunk, rows - first(chunk)); }
};

}  // namespace raq
