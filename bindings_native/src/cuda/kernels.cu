// The kernels: a thread quantizes one block with the very lines that the processor runs (RAQ_LANES = 1).
// Everything around them is in quantize.cu.
#include "cuda/kernels.hpp"

#include "common/tiles.hpp"
#include "cuda/check.hpp"
#include "formats/all.hpp"

namespace raq::RAQ_LEVEL {
namespace {

using cuda::Position;

constexpr int threads_per_group = 64;
// A chunk has at most 256 blocks of 256 weights, unless a row is longer: one group measures it at once.
constexpr int measuring_threads = 256;

// ---- kernels ----

template <int K>
__device__ bool all_finite_in(const float* weights, std::int64_t position, Position* first_bad) {
  for (int k = 0; k < K; ++k)
    if ((float_bits(weights[k]) & 0x7f800000) == 0x7f800000) {
      atomicMin(first_bad, static_cast<Position>(position + k));
      return false;
    }
  return true;
}

template <class Format>
__global__ void __launch_bounds__(threads_per_group)
    quantize_blocks(Rows rows, std::int64_t block_count, Effort effort, std::uint8_t* out,
                    Position* first_bad) {
  constexpr int K = Format::weights;
  const std::int64_t b = blockIdx.x * std::int64_t{threads_per_group} + threadIdx.x;
  if (b >= block_count || !all_finite_in<K>(rows.weights + b * K, b * K, first_bad)) return;
  Tile<K> tile;
  Bytes<Format::bytes> block;
  tile.load(rows, b, 1);
  Format::quantize(tile.weights, tile.importance, tile.unit, effort, block);
  store_blocks(block, 1, out + b * Format::bytes);
}

template <class Format>
__global__ void __launch_bounds__(threads_per_group)
    dequantize_blocks(const std::uint8_t* in, std::int64_t block_count, float* out) {
  const std::int64_t b = blockIdx.x * std::int64_t{threads_per_group} + threadIdx.x;
  if (b >= block_count) return;
  Bytes<Format::bytes> block;
  Float restored[Format::weights];
  load_blocks(block, 1, in + b * Format::bytes);
  Format::dequantize(block, restored);
  for (int k = 0; k < Format::weights; ++k) out[b * Format::weights + k] = restored[k];
}

template <class Format>
__device__ LaneErrors errors_of_block(const Rows& rows, std::int64_t b, Effort effort, Position* first_bad) {
  constexpr int K = Format::weights;
  if (!all_finite_in<K>(rows.weights + b * K, b * K, first_bad)) return LaneErrors{};
  Tile<K> tile;
  Bytes<Format::bytes> block;
  Float restored[K];
  tile.load(rows, b, 1);
  Format::quantize(tile.weights, tile.importance, tile.unit, effort, block);
  Format::dequantize(block, restored);
  return errors_of(tile, restored);
}

// A group of threads measures the blocks of one chunk, a batch of 256 at a time: first every
// thread one block, then one thread for each row adds up what was found of it, block after
// block. That is the processor's order, so the sums are equal to the last bit; a tree of partial
// sums would be faster and differ.
template <class Format>
__global__ void __launch_bounds__(measuring_threads)
    measure_chunks(Rows rows, std::int64_t rows_per_chunk, Effort effort, ErrorSums* sums_of_rows,
                   Position* first_bad) {
  __shared__ LaneErrors found[measuring_threads];
  const std::int64_t blocks_per_row = rows.length / Format::weights;
  const std::int64_t first_row = blockIdx.x * rows_per_chunk, left = rows.count - first_row;
  const std::int64_t first = first_row * blocks_per_row;
  const std::int64_t end = first + (left < rows_per_chunk ? left : rows_per_chunk) * blocks_per_row;
  const int thread = static_cast<int>(threadIdx.x);
  for (std::int64_t base = first; base < end; base += measuring_threads) {
    const std::int64_t stop = base + measuring_threads < end ? base + measuring_threads : end;
    if (base + thread < stop) found[thread] = errors_of_block<Format>(rows, base + thread, effort, first_bad);
    __syncthreads();  // every block of the batch is measured
    // A batch has at most as many rows as blocks, so there is a thread for each.
    const std::int64_t row = base / blocks_per_row + thread, start = row * blocks_per_row;
    if (start < stop) {
      // A row that began in an earlier batch goes on from its sums so far.
      ErrorSums sums = start < base ? sums_of_rows[row] : ErrorSums{};
      for (std::int64_t b = start < base ? base : start; b < start + blocks_per_row && b < stop; ++b) {
        sums.weighted_squared_error += found[b - base].weighted_squared_error[0];
        sums.weighted_energy += found[b - base].weighted_energy[0];
      }
      sums_of_rows[row] = sums;
    }
    __syncthreads();  // the sums of the batch are read before the next one overwrites them
  }
}

// ---- launchers ----

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), std::int64_t groups, int threads, cudaStream_t stream,
            Arguments... arguments) {
  if (groups == 0) return;
  cudaLaunchConfig_t shape{};
  shape.gridDim = dim3(static_cast<unsigned>(groups));
  shape.blockDim = dim3(static_cast<unsigned>(threads));
  shape.stream = stream;
  RAQ_CUDA_CHECK(cudaLaunchKernelEx(&shape, kernel, arguments...));
}

std::int64_t groups_of(std::int64_t count, std::int64_t per_group) {
  return (count + per_group - 1) / per_group;
}

template <class Format>
constexpr cuda::Kernels kernels_of() {
  return {[](Rows rows, Effort effort, std::uint8_t* blocks, Position* first_bad, cudaStream_t stream) {
            const std::int64_t count = rows.count * rows.length / Format::weights;
            launch(quantize_blocks<Format>, groups_of(count, threads_per_group), threads_per_group, stream,
                   rows, count, effort, blocks, first_bad);
          },
          [](const std::uint8_t* blocks, std::int64_t count, float* weights, cudaStream_t stream) {
            launch(dequantize_blocks<Format>, groups_of(count, threads_per_group), threads_per_group, stream,
                   blocks, count, weights);
          },
          [](Rows rows, std::int64_t rows_per_chunk, Effort effort, ErrorSums* sums_of_rows,
             Position* first_bad, cudaStream_t stream) {
            launch(measure_chunks<Format>, groups_of(rows.count, rows_per_chunk), measuring_threads, stream,
                   rows, rows_per_chunk, effort, sums_of_rows, first_bad);
          }};
}

}  // namespace
}  // namespace raq::RAQ_LEVEL

const raq::cuda::Kernels& raq::cuda::kernels(const QuantType& type) {
  using namespace RAQ_LEVEL;
  static constexpr Kernels table[] = {
#define RAQ_QUANT_TYPE(name, id, weights_per_block, bytes_per_block) kernels_of<name>(),
#include "quant_types.def"
#undef RAQ_QUANT_TYPE
  };
  return table[type.index];
}
