// Work on the rows of a tensor, part by part through the lanes of one or several devices.
//
// Rules
// - A part is whole chunks. Its size and its device depend on free memory and on timing, so what is computed
//   of a chunk must not depend on its part.
// - Devices read and write only memory of lanes, never the caller's: after an error
//   no device still writes there.
// - Of several failures the one of the first part is thrown.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <functional>
#include <vector>

#include "chunks.hpp"

namespace raq::cuda {

// A contiguous range of rows; `first` is the number of the first one.
struct Part {
  std::int64_t first, count;
};

// Where a part is on its device, and the constants.
struct OnDevice {
  std::byte *in, *out, *scratch;
  const std::byte* constants;
};

// What all parts need, copied to each device at the beginning, one after the other (see `aligned`).
struct Constant {
  const void* data;
  std::size_t size;
};

constexpr std::int64_t most_lanes = 3;  // one copies in, one computes, one copies out

struct Work {
  Chunks chunks;
  // Bytes that a part of this many rows sends to the device, and gets back.
  std::function<std::size_t(std::int64_t rows)> bytes_in, bytes_out;
  std::function<void(Part, std::byte* in)> fill;
  std::function<void(Part, OnDevice, cudaStream_t)> launch;
  std::function<void(Part, const std::byte* out)> collect;
  // Bytes on the device beside these, of a part of this many rows.
  std::function<std::size_t(std::int64_t rows)> bytes_scratch = [](std::int64_t) { return 0; };
  std::vector<Constant> constants = {};
  std::int64_t lanes = most_lanes;
  // Whether calls share a device, for work of which one call fills a small part of it.
  bool shares_device = false;
};

inline std::size_t aligned(std::size_t size) { return (size + 15) / 16 * 16; }

// Throws what `collect` throws, CudaError, and OutOfMemory if no device has room for a
// chunk in each of its lanes.
void run(const Work& work, std::int64_t most_chunks_per_part, const std::vector<int>& devices);

// Frees what the lanes keep between calls.
void release_lanes();

}  // namespace raq::cuda
