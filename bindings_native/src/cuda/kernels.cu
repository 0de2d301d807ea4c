// The kernels: a thread quantizes one block with the very lines that the processor runs (RAQ_LANES = 1).
// Everything around them is in quantize.cu.
#include "cuda/kernels.hpp"

#include "common/feedback_blocks.hpp"
#include "common/tiles.hpp"
#include "cuda/feedback.hpp"
#include "cuda/launch.hpp"
#include "formats/all.hpp"

namespace raq::RAQ_LEVEL {
namespace {

using cuda::Position, cuda::Task, cuda::Wave, cuda::launch, cuda::groups_of;

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

constexpr int rounding_threads = 128;
constexpr int panel = 32;  // columns that get each other's errors one by one

// The weights of a task, and the errors of a panel, to which a thread of each row adds.
struct Panel {
  float weights[cuda::most_rows][cuda::span + 1];
  float errors[cuda::most_rows][panel + 1];
};

// The panel of one row that begins at column `from` of its span: column after column, or a few at once.
// `factor` is that of the first column of the span, `length` apart from the next.
template <class Format>
__device__ void round_panel(OpenBlock<Format>& block, const float* importance, float* weights, float* errors,
                            const float* factor, std::int64_t length, int from) {
  constexpr int step = Chosen<Format>::step, sub_block = Format::sub_block;
  SubBlock shared;
  RAQ_ROLLED
  for (int k = from; k < from + panel; k += step) {
    const int place = k % Format::weights;
    if (place % sub_block == 0) shared = block.sub_block(place / sub_block);
    float left[step], levels[step];
    for (int i = 0; i < step; ++i) left[i] = bounded(weights[k + i]);
    block.chosen.choose(left, importance + place, shared, place, levels);
    RAQ_ROLLED
    for (int i = 0; i < step; ++i) {
      const float* row = factor + (k + i) * length;
      const float error = error_of(weights[k + i], levels[i], shared, row[k + i]);
      errors[k + i - from] = error;
      RAQ_ROLLED
      for (int later = k + i + 1; later < from + panel; ++later) weights[later] -= error * row[later];
    }
  }
}

// Stores a block, and with a row factor what its rounding leaves of the weights before feedback from columns.
template <class Format>
__device__ void finish_block(const cuda::FeedbackWork& work, OpenBlock<Format>& block, std::int64_t row,
                             std::int64_t column) {
  constexpr int K = Format::weights;
  block.close();
  store_blocks(block.bytes, 1, work.blocks + (row * work.length + column) / K * Format::bytes);
  if (work.row_factor == nullptr) return;
  float restored[K];
  Format::dequantize(block.bytes, restored);
  float* weights = work.weights + row * work.length + column;
  RAQ_UNROLL
  for (int k = 0; k < K; ++k) weights[k] -= restored[k];
}

// Subtracts the errors of a panel from the weights of a later column. `factor` is that between the first column of
// the panel and this one.
__device__ void spread(Panel& at, int rows, const float* factor, std::int64_t length, int column) {
  float factors[panel];
  for (int j = 0; j < panel; ++j) factors[j] = factor[j * length];
  RAQ_ROLLED
  for (int row = 0; row < rows; ++row) {
    float left = at.weights[row][column];
    for (int j = 0; j < panel; ++j) left -= at.errors[row][j] * factors[j];
    at.weights[row][column] = left;
  }
}

// A group of threads rounds a task. The first of them have a row each; between panels all subtract what the panel
// left from the later columns.
template <class Format>
__global__ void __launch_bounds__(rounding_threads) round_spans(Wave wave, Effort effort) {
  constexpr int K = Format::weights;
  static_assert(cuda::span % K == 0 && K % panel == 0 && panel % Format::sub_block == 0);
  __shared__ Panel at;
  const Task task = wave.task(blockIdx.x);
  const std::int64_t length = wave.work.length, first = task.row * length + task.column;
  const float* factor = wave.work.factor + task.column * length + task.column;
  const int thread = static_cast<int>(threadIdx.x);
  RAQ_ROLLED
  for (int i = thread; i < task.rows * cuda::span; i += rounding_threads) {
    const int row = i / cuda::span, k = i % cuda::span;
    if (k < task.columns) at.weights[row][k] = wave.work.errors[first + row * length + k];
  }
  __syncthreads();  // all weights are there
  Tile<K> tile;
  OpenBlock<Format> block;
  RAQ_ROLLED
  for (int from = 0; from < task.columns; from += panel) {
    if (thread < task.rows) {
      float* weights = at.weights[thread];
      if (from % K == 0)
        block.open(weights + from, 1, wave.work.importance + task.column + from, effort, tile);
      round_panel<Format>(block, tile.importance, weights, at.errors[thread], factor, length, from);
      if ((from + panel) % K == 0)
        finish_block<Format>(wave.work, block, task.row + thread, task.column + from + panel - K);
    }
    __syncthreads();  // the errors of the panel are known
    RAQ_ROLLED
    for (int k = from + panel + thread; k < task.columns; k += rounding_threads)
      spread(at, task.rows, factor + from * length + k, length, k);
    RAQ_ROLLED
    for (int i = thread; i < task.rows * panel; i += rounding_threads)
      wave.work.errors[first + i / panel * length + from + i % panel] = at.errors[i / panel][i % panel];
    __syncthreads();  // the weights of the next panel are what feedback made of them
  }
}

// ---- launchers ----

template <class Format>
constexpr auto rounding_of() -> decltype(cuda::Kernels::round_spans) {
  if constexpr (CodePerWeight<Format> || CodePerGroup<Format>)
    return [](const Wave& wave, Effort effort, cudaStream_t stream) {
      launch(round_spans<Format>, wave.tasks, rounding_threads, stream, wave, effort);
    };
  return nullptr;
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
          },
          rounding_of<Format>()};
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
