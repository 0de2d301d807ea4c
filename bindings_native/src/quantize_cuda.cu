// CUDA: indices, staging, launches. A thread quantizes one block with the very lines the CPU runs (RAQ_LANES
// = 1).
#include <algorithm>
#include <limits>

#include "cuda.hpp"
#include "cuda_check.hpp"
#include "formats/all.hpp"
#include "tiles.hpp"

namespace raq::RAQ_LEVEL {
namespace {

constexpr int threads_per_group = 64;
// Rows are brought over in parts of at most this many weights (1 GiB of floats).
constexpr std::int64_t part_weights = std::int64_t{1} << 28;
constexpr unsigned long long no_position = ~0ull;

// ---- kernels ----

template <int K>
__device__ void note_non_finite(const float* weights, std::int64_t position, unsigned long long* first) {
  for (int k = 0; k < K; ++k)
    if (((float_bits(weights[k]) & 0x7f800000) == 0x7f800000)) {
      atomicMin(first, static_cast<unsigned long long>(position + k));
      return;
    }
}

template <class Format>
__global__ void quantize_blocks(Rows rows, std::int64_t block_count, Effort effort, std::uint8_t* out,
                                unsigned long long* first_bad) {
  const std::int64_t b = blockIdx.x * std::int64_t{threads_per_group} + threadIdx.x;
  if (b >= block_count) return;
  note_non_finite<Format::weights>(rows.weights + b * Format::weights, b * Format::weights, first_bad);
  Tile<Format::weights> tile;
  Bytes<Format::bytes> block;
  tile.load(rows, b, 1);
  Format::quantize(tile.weights, tile.importance, tile.unit, effort, block);
  store_blocks(block, 1, out + b * Format::bytes);
}

template <class Format>
__global__ void dequantize_blocks(const std::uint8_t* in, std::int64_t block_count, float* out) {
  const std::int64_t b = blockIdx.x * std::int64_t{threads_per_group} + threadIdx.x;
  if (b >= block_count) return;
  Bytes<Format::bytes> block;
  Float restored[Format::weights];
  load_blocks(block, 1, in + b * Format::bytes);
  Format::dequantize(block, restored);
  for (int k = 0; k < Format::weights; ++k) out[b * Format::weights + k] = restored[k];
}

// One ErrorSums per group of threads, added in a fixed tree: the same sums from run to run.
template <class Format>
__global__ void measure_blocks(Rows rows, std::int64_t block_count, Effort effort, ErrorSums* out,
                               unsigned long long* first_bad) {
  __shared__ LaneErrors shared[threads_per_group];
  const std::int64_t b = blockIdx.x * std::int64_t{threads_per_group} + threadIdx.x;
  LaneErrors mine{};
  if (b < block_count) {
    note_non_finite<Format::weights>(rows.weights + b * Format::weights, b * Format::weights, first_bad);
    Tile<Format::weights> tile;
    Bytes<Format::bytes> block;
    Float restored[Format::weights];
    tile.load(rows, b, 1);
    Format::quantize(tile.weights, tile.importance, tile.unit, effort, block);
    Format::dequantize(block, restored);
    mine = errors_of(tile, restored);
  }
  shared[threadIdx.x] = mine;
  for (int half = threads_per_group / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      LaneErrors& a = shared[threadIdx.x];
      const LaneErrors& c = shared[threadIdx.x + half];
      a.weighted_squared_error[0] += c.weighted_squared_error[0];
      a.weighted_energy[0] += c.weighted_energy[0];
      a.squared_error[0] += c.squared_error[0];
      a.energy[0] += c.energy[0];
      a.restored_energy[0] += c.restored_energy[0];
      a.product[0] += c.product[0];
      a.max_error[0] = c.max_error[0] > a.max_error[0] ? c.max_error[0] : a.max_error[0];
    }
  }
  if (threadIdx.x == 0) {
    const LaneErrors& a = shared[0];
    out[blockIdx.x] = {a.weighted_squared_error[0], a.weighted_energy[0], a.squared_error[0], a.energy[0],
                       a.restored_energy[0],        a.product[0],         a.max_error[0]};
  }
}

// ---- launchers ----

std::int64_t groups_of(std::int64_t block_count) {
  return (block_count + threads_per_group - 1) / threads_per_group;
}

struct Launchers {
  void (*quantize)(Rows, std::int64_t, Effort, std::uint8_t*, unsigned long long*);
  void (*dequantize)(const std::uint8_t*, std::int64_t, float*);
  void (*measure)(Rows, std::int64_t, Effort, ErrorSums*, unsigned long long*);
};

template <class Format>
constexpr Launchers launchers_of() {
  return {[](Rows rows, std::int64_t count, Effort effort, std::uint8_t* out, unsigned long long* bad) {
            quantize_blocks<Format><<<groups_of(count), threads_per_group>>>(rows, count, effort, out, bad);
            RAQ_CUDA_CHECK(cudaGetLastError());
          },
          [](const std::uint8_t* in, std::int64_t count, float* out) {
            dequantize_blocks<Format><<<groups_of(count), threads_per_group>>>(in, count, out);
            RAQ_CUDA_CHECK(cudaGetLastError());
          },
          [](Rows rows, std::int64_t count, Effort effort, ErrorSums* out, unsigned long long* bad) {
            measure_blocks<Format><<<groups_of(count), threads_per_group>>>(rows, count, effort, out, bad);
            RAQ_CUDA_CHECK(cudaGetLastError());
          }};
}

const Launchers& launchers(const QuantType& type) {
  static constexpr Launchers table[] = {
#define RAQ_QUANT_TYPE(name, id, weights_per_block, bytes_per_block) launchers_of<name>(),
#include "quant_types.def"
#undef RAQ_QUANT_TYPE
  };
  return table[type.index];
}

// Part of a tensor on the device: its weights, the importance of its columns, and where a non-finite weight
// is.
class DevicePart {
 public:
  DevicePart(const Rows& rows, std::int64_t rows_per_part)
      : weights_(rows_per_part * rows.length), importance_(rows.length), first_bad_(1) {
    if (rows.importance != nullptr)
      RAQ_CUDA_CHECK(
          cudaMemcpy(importance_.data(), rows.importance, rows.length * sizeof(float), cudaMemcpyDefault));
  }

  Rows load(const Rows& rows, std::int64_t first, std::int64_t count) {
    RAQ_CUDA_CHECK(cudaMemcpy(weights_.data(), rows.weights + first * rows.length,
                              count * rows.length * sizeof(float), cudaMemcpyDefault));
    RAQ_CUDA_CHECK(cudaMemset(first_bad_.data(), 0xff, sizeof(unsigned long long)));
    return {weights_.data(), rows.importance != nullptr ? importance_.data() : nullptr, count, rows.length};
  }

  unsigned long long* first_bad() { return first_bad_.data(); }

  void require_finite(const Rows& rows, std::int64_t first) {
    unsigned long long position = 0;
    RAQ_CUDA_CHECK(cudaMemcpy(&position, first_bad_.data(), sizeof position, cudaMemcpyDefault));
    if (position != no_position)
      throw NonFiniteWeight(first + position / rows.length, position % rows.length);
  }

 private:
  cuda::DeviceArray<float> weights_, importance_;
  cuda::DeviceArray<unsigned long long> first_bad_;
};

std::int64_t rows_per_part(std::int64_t rows, std::int64_t row_length) {
  return std::clamp<std::int64_t>(part_weights / std::max<std::int64_t>(1, row_length), 1,
                                  std::max<std::int64_t>(1, rows));
}

// Runs work(rows at a time), with fewer rows each time the device is short of memory.
template <class Work>
void within_memory(std::int64_t step, Work work) {
  for (;; step = step / 2) try {
      return work(step);
    } catch (const cuda::CudaError& error) {
      if (error.code != cudaErrorMemoryAllocation || step <= 1) throw;
    }
}

void require_device() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
    cudaGetLastError();
    throw std::runtime_error("no CUDA device: use device='cpu'");
  }
}

}  // namespace
}  // namespace raq::RAQ_LEVEL

namespace raq::cuda {

bool built() { return true; }

std::vector<std::string> devices() {
  std::vector<std::string> names;
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) count = 0;
  for (int device = 0; device < count; ++device) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, device) == cudaSuccess) names.emplace_back(properties.name);
  }
  cudaGetLastError();  // what failed here is said by the empty list, not by the next call
  return names;
}

void quantize(const QuantType& type, const Rows& rows, Effort effort, std::uint8_t* blocks) {
  using namespace RAQ_LEVEL;
  require_device();
  const std::int64_t row_bytes = type.row_bytes(rows.length);
  within_memory(rows_per_part(rows.count, rows.length), [&](std::int64_t step) {
    DevicePart part(rows, step);
    DeviceArray<std::uint8_t> out(step * row_bytes);
    for (std::int64_t first = 0; first < rows.count; first += step) {
      const std::int64_t count = std::min(step, rows.count - first);
      const Rows here = part.load(rows, first, count);
      const std::int64_t block_count = count * rows.length / type.weights_per_block;
      if (block_count > 0) launchers(type).quantize(here, block_count, effort, out.data(), part.first_bad());
      part.require_finite(rows, first);
      RAQ_CUDA_CHECK(
          cudaMemcpy(blocks + first * row_bytes, out.data(), count * row_bytes, cudaMemcpyDefault));
    }
  });
}

void dequantize(const QuantType& type, const std::uint8_t* blocks, std::int64_t rows, std::int64_t row_length,
                float* weights) {
  using namespace RAQ_LEVEL;
  require_device();
  const std::int64_t row_bytes = type.row_bytes(row_length);
  within_memory(rows_per_part(rows, row_length), [&](std::int64_t step) {
    DeviceArray<std::uint8_t> in(step * row_bytes);
    DeviceArray<float> out(step * row_length);
    for (std::int64_t first = 0; first < rows; first += step) {
      const std::int64_t count = std::min(step, rows - first);
      const std::int64_t block_count = count * row_length / type.weights_per_block;
      RAQ_CUDA_CHECK(cudaMemcpy(in.data(), blocks + first * row_bytes, count * row_bytes, cudaMemcpyDefault));
      if (block_count > 0) launchers(type).dequantize(in.data(), block_count, out.data());
      RAQ_CUDA_CHECK(cudaMemcpy(weights + first * row_length, out.data(), count * row_length * sizeof(float),
                                cudaMemcpyDefault));
    }
  });
}

std::vector<ErrorSums> measure(const std::vector<QuantType>& types, const Rows& rows, Effort effort) {
  using namespace RAQ_LEVEL;
  for (const QuantType& type : types) type.row_bytes(rows.length);
  require_device();
  std::vector<ErrorSums> totals;
  within_memory(rows_per_part(rows.count, rows.length), [&](std::int64_t step) {
    totals.assign(types.size(), ErrorSums{});
    DevicePart part(rows, step);
    std::vector<ErrorSums> sums(groups_of(step * rows.length));  // enough for blocks of one weight
    DeviceArray<ErrorSums> out(sums.size());
    for (std::int64_t first = 0; first < rows.count; first += step) {
      const Rows here = part.load(rows, first, std::min(step, rows.count - first));
      for (std::size_t t = 0; t < types.size(); ++t) {
        const std::int64_t block_count = here.count * rows.length / types[t].weights_per_block;
        if (block_count == 0) continue;
        launchers(types[t]).measure(here, block_count, effort, out.data(), part.first_bad());
        part.require_finite(rows, first);
        const std::int64_t groups = groups_of(block_count);
        RAQ_CUDA_CHECK(cudaMemcpy(sums.data(), out.data(), groups * sizeof(ErrorSums), cudaMemcpyDefault));
        for (std::int64_t i = 0; i < groups; ++i) totals[t].add(sums[i]);
      }
    }
  });
  return totals;
}

}  // namespace raq::cuda
