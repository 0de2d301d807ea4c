// The host's side of CUDA: which devices there are, and what of a tensor is copied to them and back.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "cuda/check.hpp"
#include "cuda/cuda.hpp"
#include "cuda/feedback.hpp"
#include "cuda/pipeline.hpp"

namespace raq::cuda {
namespace {

// 32 MiB as floats: beside that the time to start a copy or a kernel is negligible.
constexpr std::int64_t part_weights = std::int64_t{1} << 23;
constexpr int least_capability = 75;  // Turing: CUDA 13 builds for nothing older

int capability(int device) {
  int major = 0, minor = 0;
  RAQ_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  RAQ_CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  return 10 * major + minor;
}

int device_count() {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  cudaGetLastError();
  if (code != cudaSuccess)
    throw std::runtime_error(std::string("no CUDA device (") + cudaGetErrorString(code) +
                             "): use device='cpu'");
  if (count == 0) throw std::runtime_error("no CUDA device: use device='cpu'");
  return count;
}

[[noreturn]] void refuse(int device) {
  cudaDeviceProp properties;
  RAQ_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
  throw std::runtime_error("CUDA device " + std::to_string(device) + " (" + properties.name +
                           ") has compute capability " + std::to_string(properties.major) + "." +
                           std::to_string(properties.minor) +
                           ", but 7.5 or more is needed: use device='cpu'");
}

// Numbers of the devices to work on.
std::vector<int> chosen(int device) {
  const int count = device_count();
  if (device != Device::all) {
    if (device >= count)
      throw std::runtime_error("no CUDA device " + std::to_string(device) + ": this machine has " +
                               std::to_string(count) + ", numbered from 0");
    if (capability(device) < least_capability) refuse(device);
    return {device};
  }
  std::vector<int> usable;
  for (int number = 0; number < count; ++number)
    if (capability(number) >= least_capability) usable.push_back(number);
  if (usable.empty()) refuse(0);
  return usable;
}

std::int64_t chunks_per_part(const Chunks& chunks, std::int64_t row_length) {
  return std::max<std::int64_t>(1,
                                part_weights / std::max<std::int64_t>(1, chunks.rows_per_chunk * row_length));
}

// A part on its way to the device: its weights, then the importance of their columns.
struct WeightsIn {
  const Rows& rows;

  std::size_t weight_bytes(std::int64_t count) const { return count * rows.length * sizeof(float); }
  std::size_t bytes(std::int64_t count) const {
    return weight_bytes(count + (rows.importance != nullptr ? 1 : 0));
  }
  void fill(Part part, std::byte* in) const {
    std::memcpy(in, rows.weights + part.first * rows.length, weight_bytes(part.count));
    if (rows.importance != nullptr)
      std::memcpy(in + weight_bytes(part.count), rows.importance, weight_bytes(1));
  }
  Rows on_device(Part part, const std::byte* in) const {
    const auto* weights = reinterpret_cast<const float*>(in);
    const float* importance = rows.importance != nullptr ? weights + part.count * rows.length : nullptr;
    return {weights, importance, part.count, rows.length};
  }
};

// A part on its way back: its results, then the position of the first weight that is not finite.
struct FlaggedOut {
  std::size_t payload;

  std::size_t bytes() const { return aligned(payload) + sizeof(Position); }
  Position* flag(std::byte* out) const { return reinterpret_cast<Position*>(out + aligned(payload)); }
  Position* cleared_flag(std::byte* out, cudaStream_t stream) const {
    RAQ_CUDA_CHECK(cudaMemsetAsync(flag(out), 0xff, sizeof(Position), stream));
    return flag(out);
  }
  void require_finite(Part part, std::int64_t row_length, const std::byte* out) const {
    const Position position = *flag(const_cast<std::byte*>(out));
    if (position != no_position)
      throw NonFiniteWeight(part.first + position / row_length, position % row_length);
  }
};

// The factors of a call, which become constants of its work.
struct Factors {
  std::vector<float> importance;  // 1 / U_jj^2
  const float *factor, *row_factor;
  std::int64_t rows, length;

  std::vector<Constant> constants() const {
    std::vector<Constant> all{{importance.data(), length * sizeof(float)},
                              {factor, length * length * sizeof(float)}};
    if (row_factor != nullptr) all.push_back({row_factor, rows * rows * sizeof(float)});
    return all;
  }
  FeedbackWork on_device(Part part, OnDevice at, Position* flag) const {
    const float* places[3] = {};
    const std::byte* next = at.constants;
    const std::vector<Constant> all = constants();
    for (std::size_t i = 0; i < all.size(); ++i) {
      places[i] = reinterpret_cast<const float*>(next);
      next += aligned(all[i].size);
    }
    auto* weights = reinterpret_cast<float*>(at.in);
    auto* errors = row_factor != nullptr ? reinterpret_cast<float*>(at.scratch) : weights;
    auto* blocks = reinterpret_cast<std::uint8_t*>(at.out);
    return {weights, errors, places[0], places[1], places[2], blocks, flag, part.count, length};
  }
};

// Work of one part on the first device, from number `first` on, that has the memory for it.
void run_on_one(const Work& work, const std::vector<int>& devices, std::size_t first) {
  for (std::size_t i = 0;; ++i) try {
      return run(work, 1, {devices[(first + i) % devices.size()]});
    } catch (const OutOfMemory&) {
      if (i + 1 == devices.size()) throw;
    }
}

}  // namespace

bool built() { return true; }

std::vector<DeviceInfo> devices() try {
  std::vector<DeviceInfo> found;
  const int count = device_count();
  for (int number = 0; number < count; ++number) {
    cudaDeviceProp properties;
    RAQ_CUDA_CHECK(cudaGetDeviceProperties(&properties, number));
    found.push_back({number, properties.name, properties.major, properties.minor,
                     static_cast<std::int64_t>(properties.totalGlobalMem),
                     10 * properties.major + properties.minor >= least_capability});
  }
  return found;
} catch (const std::exception&) {
  return {};
}

void release() { release_lanes(); }

void quantize(const QuantType& type, const Rows& rows, Effort asked, int device, std::uint8_t* blocks) {
  const Effort effort = effort_for(rows, asked);
  const std::int64_t row_bytes = type.row_bytes(rows.length);
  const std::vector<int> numbers = chosen(device);
  const Chunks chunks(rows.count, rows.length);
  const WeightsIn weights{rows};
  const auto flagged = [=](std::int64_t count) {
    return FlaggedOut{static_cast<std::size_t>(count * row_bytes)};
  };
  run({chunks, [=](std::int64_t count) { return weights.bytes(count); },
       [=](std::int64_t count) { return flagged(count).bytes(); },
       [=](Part part, std::byte* in) { weights.fill(part, in); },
       [=](Part part, OnDevice at, cudaStream_t stream) {
         kernels(type).quantize(weights.on_device(part, at.in), effort,
                                reinterpret_cast<std::uint8_t*>(at.out),
                                flagged(part.count).cleared_flag(at.out, stream), stream);
       },
       [=](Part part, const std::byte* out) {
         flagged(part.count).require_finite(part, weights.rows.length, out);
         std::memcpy(blocks + part.first * row_bytes, out, part.count * row_bytes);
       }},
      chunks_per_part(chunks, rows.length), numbers);
}

void dequantize(const QuantType& type, const std::uint8_t* blocks, std::int64_t rows, std::int64_t row_length,
                int device, float* weights) {
  const std::int64_t row_bytes = type.row_bytes(row_length), row_size = row_length * sizeof(float);
  const std::vector<int> numbers = chosen(device);
  const Chunks chunks(rows, row_length);
  run({chunks, [=](std::int64_t count) { return count * row_bytes; },
       [=](std::int64_t count) { return count * row_size; },
       [=](Part part, std::byte* in) {
         std::memcpy(in, blocks + part.first * row_bytes, part.count * row_bytes);
       },
       [=](Part part, OnDevice at, cudaStream_t stream) {
         kernels(type).dequantize(reinterpret_cast<std::uint8_t*>(at.in),
                                  part.count * row_length / type.weights_per_block,
                                  reinterpret_cast<float*>(at.out), stream);
       },
       [=](Part part, const std::byte* out) {
         std::memcpy(weights + part.first * row_length, out, part.count * row_size);
       }},
      chunks_per_part(chunks, row_length), numbers);
}

void quantize_with_feedback(const QuantType& type, const Rows& rows, const float* factor,
                            const float* row_factor, Effort asked, int device, std::uint8_t* blocks) {
  const std::int64_t row_bytes = type.row_bytes(rows.length);
  if (kernels(type).round_spans == nullptr) throw NoFeedback(type);
  const Factors factors{importance_of(factor, rows.length), factor, row_factor, rows.count, rows.length};
  if (row_factor != nullptr) importance_of(row_factor, rows.count);  // refuses what is no factor
  const Effort effort = effort_for({nullptr, factors.importance.data(), 0, rows.length}, asked);
  const std::vector<int> numbers = chosen(device);
  if (rows.count == 0 || rows.length == 0) return;
  const Rows given{rows.weights, nullptr, rows.count, rows.length};
  const WeightsIn weights{given};
  const auto flagged = [=](std::int64_t count) {
    return FlaggedOut{static_cast<std::size_t>(count * row_bytes)};
  };
  Chunks chunks(rows.count, rows.length);
  chunks.rows_per_chunk = row_factor != nullptr ? rows.count : most_rows;
  chunks.count = (rows.count + chunks.rows_per_chunk - 1) / chunks.rows_per_chunk;
  Work work{chunks,
            [=](std::int64_t count) { return weights.bytes(count); },
            [=](std::int64_t count) { return flagged(count).bytes(); },
            [=](Part part, std::byte* in) { weights.fill(part, in); },
            [=, &factors](Part part, OnDevice at, cudaStream_t stream) {
              Position* flag = flagged(part.count).cleared_flag(at.out, stream);
              queue_feedback(type, factors.on_device(part, at, flag), effort, stream);
            },
            [=](Part part, const std::byte* out) {
              flagged(part.count).require_finite(part, given.length, out);
              std::memcpy(blocks + part.first * row_bytes, out, part.count * row_bytes);
            }};
  work.constants = factors.constants();
  work.shares_device = true;
  if (row_factor == nullptr) return run(work, chunks_per_part(chunks, rows.length), numbers);
  // Rows depend on each other, so they stay together. Calls take turns of the devices.
  work.bytes_scratch = [=](std::int64_t count) { return weights.bytes(count); };
  work.lanes = 1;
  static std::atomic<std::size_t> turn{0};
  run_on_one(work, numbers, turn++);
}

std::vector<ErrorSums> measure(const std::vector<QuantType>& types, const Rows& rows, Effort asked,
                               int device) {
  const Effort effort = effort_for(rows, asked);
  for (const QuantType& type : types) type.row_bytes(rows.length);
  const std::vector<int> numbers = chosen(device);
  const Chunks chunks(rows.count, rows.length);
  if (rows.length == 0) return std::vector<ErrorSums>(types.size());
  const WeightsIn weights{rows};
  std::vector<ErrorSums> sums_of_rows(types.size() * rows.count);  // type after type, as from measure_rows
  const auto flagged = [=, &types](std::int64_t count) {
    return FlaggedOut{types.size() * count * sizeof(ErrorSums)};
  };
  run({chunks, [=](std::int64_t count) { return weights.bytes(count); },
       [=](std::int64_t count) { return flagged(count).bytes(); },
       [=](Part part, std::byte* in) { weights.fill(part, in); },
       [=, &types](Part part, OnDevice at, cudaStream_t stream) {
         Position* flag = flagged(part.count).cleared_flag(at.out, stream);
         auto* sums = reinterpret_cast<ErrorSums*>(at.out);
         for (std::size_t t = 0; t < types.size(); ++t)
           kernels(types[t]).measure(weights.on_device(part, at.in), chunks.rows_per_chunk, effort,
                                     sums + t * part.count, flag, stream);
       },
       [=, &types, &sums_of_rows](Part part, const std::byte* out) {
         flagged(part.count).require_finite(part, weights.rows.length, out);
         const auto* sums = reinterpret_cast<const ErrorSums*>(out);
         for (std::size_t t = 0; t < types.size(); ++t)
           std::copy_n(sums + t * part.count, part.count,
                       sums_of_rows.begin() + t * weights.rows.count + part.first);
       }},
      chunks_per_part(chunks, rows.length), numbers);
  return totals_of(sums_of_rows, types.size(), rows.count);
}

}  // namespace raq::cuda
