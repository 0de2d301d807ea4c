// Threads over chunks of rows. Their sums are added in order, so a result does not
// depend on the number of threads.
#include <algorithm>

#include "chunks.hpp"
#include "cpu/instruction_sets.hpp"
#include "cpu/scratch.hpp"
#include "cpu/threads.hpp"

namespace raq {
namespace {

Rows part(const Rows& rows, const Chunks& chunks, std::int64_t chunk) {
  return {rows.weights + chunks.first(chunk) * rows.length, rows.importance, chunks.size(chunk), rows.length};
}

void require_finite(std::int64_t position, const Rows& rows, std::int64_t first_row) {
  if (position != all_finite)
    throw NonFiniteWeight(first_row + position / rows.length, position % rows.length);
}

constexpr std::int64_t round_up(std::int64_t value, std::int64_t step) {
  return (value + step - 1) / step * step;
}

// Groups of rows that feed errors forward together and share what they read of the factor. As many for each
// thread; the results do not depend on them.
struct FeedbackGroups {
  static constexpr std::int64_t most_rows = 128;  // 2 MiB of weights where there are 4096 columns
  std::int64_t rows_each, count;

  FeedbackGroups(std::int64_t rows, int threads) {
    const std::int64_t wanted =
        round_up(std::max<std::int64_t>(1, (rows + most_rows - 1) / most_rows), threads);
    rows_each = std::max<std::int64_t>(feedback::row_step,
                                       round_up((rows + wanted - 1) / wanted, feedback::row_step));
    count = (rows + rows_each - 1) / rows_each;
  }
};

}  // namespace

void quantize(const QuantType& type, const Rows& rows, const Options& options, std::uint8_t* blocks) {
  const std::int64_t row_bytes = type.row_bytes(rows.length);
  const Kernels& kernels = cpu_kernels(type, options.instruction_set);
  const Chunks chunks(rows.count, rows.length);
  const Effort effort = effort_for(rows, options.effort);
  for_each_chunk(chunks.count, threads_of(options), [&](std::int64_t chunk) {
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
  for_each_chunk(chunks.count, threads_of(options), [&](std::int64_t chunk) {
    const std::int64_t first = chunks.first(chunk);
    kernels.dequantize(blocks + first * row_bytes, chunks.size(chunk) * row_length / type.weights_per_block,
                       weights + first * row_length);
  });
}

void quantize_with_feedback(const QuantType& type, const Rows& rows, const float* factor,
                            const Options& options, std::uint8_t* blocks) {
  const std::int64_t row_bytes = type.row_bytes(rows.length), columns = rows.length;
  const Kernels& kernels = cpu_kernels(type, options.instruction_set);
  if (kernels.quantize_with_feedback == nullptr) throw NoFeedback(type);
  const std::vector<float> importance = importance_of(factor, columns);
  const Effort effort = effort_for({nullptr, importance.data(), 0, columns}, options.effort);
  const int threads = threads_of(options);
  const FeedbackGroups groups(rows.count, threads);
  const std::int64_t floats =
      groups.rows_each * (feedback::span + columns) + feedback::corner + feedback::span * feedback::near;
  for_each_chunk(groups.count, threads, [&](std::int64_t group) {
    const std::int64_t first = group * groups.rows_each;
    const Rows some{rows.weights + first * columns, importance.data(),
                    std::min(groups.rows_each, rows.count - first), columns};
    const Scratch scratch(floats);
    require_finite(
        kernels.quantize_with_feedback(some, factor, effort, scratch.data(), blocks + first * row_bytes),
        rows, first);
  });
}

std::vector<ErrorSums> measure_rows(const std::vector<QuantType>& types, const Rows& rows,
                                    const Options& options) {
  for (const QuantType& type : types) type.row_bytes(rows.length);
  const Chunks chunks(rows.count, rows.length);
  const Effort effort = effort_for(rows, options.effort);
  std::vector<ErrorSums> sums(types.size() * rows.count);
  for_each_chunk(chunks.count, threads_of(options), [&](std::int64_t chunk) {
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
