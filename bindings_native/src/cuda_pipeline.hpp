// Work on the rows of a tensor, part by part through the lanes of one or several devices.
//
// Rules
// - Parts are whole chunks. How large they are and which device takes them depends on memory and on luck, so
// what is
//   computed of a chunk may not depend on its part.
// - Devices read and write only memory of lanes, never the caller's: an error leaves nothing behind that
// still writes.
// - Of several failures the one of the first part is thrown.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <functional>
#include <vector>

#include "chunks.hpp"

namespace raq::cuda {

// Some rows in a row. `first` is the number of the first one.
struct Part {
  std::int64_t first, count;
};

struct Work {
  Chunks chunks;
  // Bytes that a part of so many rows sends to the device, and gets back.
  std::function<std::size_t(std::int64_t rows)> bytes_in, bytes_out;
  std::function<void(Part, std::byte* in)> fill;
  std::function<void(Part, std::byte* in, std::byte* out, cudaStream_t)> launch;
  std::function<void(Part, const std::byte* out)> collect;
};

// Throws what `collect` throws; CudaError, and OutOfMemory where no device has room for a chunk in each of
// its lanes.
void run(const Work& work, std::int64_t most_chunks_per_part, const std::vector<int>& devices);

// Frees what the lanes keep between calls.
void release_lanes();

}  // namespace raq::cuda
