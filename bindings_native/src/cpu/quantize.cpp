// Threads over chunks of rows. Their sums are added in order, so a result does not
// depend on the number of threads.
#include <algorithm>
#include <atomic>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

#include "chunks.hpp"
#include "cpu/instruction_sets.hpp"

namespace raq {
namespace {

// Runs work(chunk) for every chunk. Of several exceptions the one of the first chunk is thrown again
// here, whichever thread is faster.
void for_each_chunk(std::int64_t count, int threads, const std::function<void(std::int64_t)>& work) {
  if (threads <= 0) threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  std::atomic<std::int64_t> next{0}, failed_chunk{count};
  std::exception_ptr failure;
  std::mutex guard;
  const auto run = [&] {
    for (std::int64_t chunk; (chunk = next.fetch_add(1)) < failed_chunk.load();) {
      try {
        work(chunk);
      } catch (...) {
        const std::lock_guard lock(guard);
        if (chunk < failed_chunk.load()) {
          failed_chunk = chunk;
          failure = std::current_exception();
        }
      }
    }
  };
  std::vector<std::thread> helpers;
  for (std::int64_t i = 1; i < std::min<std::int64_t>(threads, count); ++i) helpers.emplace_back(run);
  run();
  for (std::thread& helper : helpers) helper.join();
  if (failure) std::rethrow_exception(failure);
}

Rows part(const Rows& rows, const Chunks& chunks, std::int64_t chunk) {
  return {rows.weights + chunks.first(chunk) * rows.length, rows.importance, chunks.size(chunk), rows.length};
}

void require_finite(std::int64_t position, const Rows& rows, std::int64_t first_row) {
  if (position != all_finite)
    throw NonFiniteWeight(first_row + position / rows.length, position % rows.length);
}

}  // namespace

void quantize(const QuantType& type, const Rows& rows, const Options& options, std::uint8_t* blocks) {
  const std::int64_t row_bytes = type.row_bytes(rows.length);
  const Kernels& kernels = cpu_kernels(type, options.instruction_set);
  const Chunks chunks(rows.count, rows.length);
  const Effort effort = effort_for(rows, options.effort);
  for_each_chunk(chunks.count, options.threads, [&](std::int64_t chunk) {
    const std::int64_t first = chunks.first(chunk);
    require_finite(kernels.quantize(part(rows, chunks, chunk), effort, blocks + first * row_bytes), rows,
                   first);
  });
}

void dequantize(const QuantType& type, const std::uint8_t* blocks, std::int64_t rows, std::int64_t row_length,
                const Options& options, float* weights) {
  const std::int64_t row_bytes = type.row_bytes(row_length);
  const Kernels& kernels = cpu_kernels(type, options.instruction_set);
  const Chunks chunks(rows, row_length);
  for_each_chunk(chunks.count, options.threads, [&](std::int64_t chunk) {
    const std::int64_t first = chunks.first(chunk);
    kernels.dequantize(blocks + first * row_bytes, chunks.size(chunk) * row_length / type.weights_per_block,
                       weights + first * row_length);
  });
}

std::vector<ErrorSums> measure_rows(const std::vector<QuantType>& types, const Rows& rows,
                                    const Options& options) {
  for (const QuantType& type : types) type.row_bytes(rows.length);
  const Chunks chunks(rows.count, rows.length);
  const Effort effort = effort_for(rows, options.effort);
  std::vector<ErrorSums> sums(types.size() * rows.count);
  for_each_chunk(chunks.count, options.threads, [&](std::int64_t chunk) {
    const std::int64_t first = chunks.first(chunk);
    for (std::size_t t = 0; t < types.size(); ++t)
      require_finite(cpu_kernels(types[t], options.instruction_set)
                         .measure(part(rows, chunks, chunk), effort, sums.data() + t * rows.count + first),
                     rows, first);
  });
  return sums;
}

std::vector<ErrorSums> measure(const std::vector<QuantType>& types, const Rows& rows,
                               const Options& options) {
  return totals_of(measure_rows(types, rows, options), types.size(), rows.count);
}

}  // namespace raq
