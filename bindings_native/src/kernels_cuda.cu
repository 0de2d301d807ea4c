// The kernels: a thread quantizes one block with the very lines the CPU runs (RAQ_LANES = 1). Everything
// around them is in quantize_cuda.cu.
#include "cuda_check.hpp"
#include "cuda_kernels.hpp"
#include "formats/all.hpp"
#include "tiles.hpp"

namespace raq::RAQ_LEVEL {
namespace {

using cuda::Position;

constexpr int threads_per_group = 64;
// A chunk has at most 256 blocks of 256 weights, unless a row is longer: one group measures it at once.
constexpr int measuring_threads = 256;
constexpr int fields = 7;
static_assert(sizeof(ErrorSums) == fields * sizeof(double) && sizeof(LaneErrors) == sizeof(ErrorSums));
constexpr int max_field = 6;

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

// A group of threads measures the blocks of one chunk, and adds them up in the CPU's order: one thread for
// each sum and field, block after block. Blocks of a sum follow each other.
template <class Format>
__global__ void __launch_bounds__(measuring_threads)
    measure_chunks(Rows rows, std::int64_t rows_per_chunk, std::int64_t rows_per_sum, Effort effort,
                   ErrorSums* out, Position* first_bad) {
  __shared__ double found[measuring_threads][fields];
  const std::int64_t blocks_per_row = rows.length / Format::weights,
                     blocks_per_sum = rows_per_sum * blocks_per_row;
  const std::int64_t first_row = blockIdx.x * rows_per_chunk, left = rows.count - first_row;
  const std::int64_t first = first_row * blocks_per_row;
  const std::int64_t end = first + (left < rows_per_chunk ? left : rows_per_chunk) * blocks_per_row;
  const int thread = static_cast<int>(threadIdx.x);
  for (std::int64_t base = first; base < end; base += measuring_threads) {
    const std::int64_t stop = base + measuring_threads < end ? base + measuring_threads : end;
    if (base + thread < stop) {
      const LaneErrors errors = errors_of_block<Format>(rows, base + thread, effort, first_bad);
      memcpy(found[thread], &errors, sizeof errors);
    }
    __syncthreads();
    const std::int64_t first_sum = base / blocks_per_sum,
                       sum_count = (stop - 1) / blocks_per_sum + 1 - first_sum;
    for (std::int64_t i = thread; i < sum_count * fields; i += measuring_threads) {
      const std::int64_t sum = first_sum + i / fields, start = sum * blocks_per_sum;
      const int field = static_cast<int>(i % fields);
      double& total = reinterpret_cast<double*>(out + sum)[field];
      double here = start < base ? total : 0;
      for (std::int64_t b = start < base ? base : start; b < start + blocks_per_sum && b < stop; ++b) {
        const double value = found[b - base][field];
        if (field == max_field)
          here = value > here ? value : here;
        else
          here += value;
      }
      total = here;
    }
    __syncthreads();
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
          [](Rows rows, std::int64_t rows_per_chunk, std::int64_t rows_per_sum, Effort effort,
             ErrorSums* sums, Position* first_bad, cudaStream_t stream) {
            launch(measure_chunks<Format>, groups_of(rows.count, rows_per_chunk), measuring_threads, stream,
                   rows, rows_per_chunk, rows_per_sum, effort, sums, first_bad);
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
