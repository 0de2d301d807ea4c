#include "cuda/feedback.hpp"

#include <algorithm>

#include "both_sides.hpp"
#include "common/portable.hpp"
#include "cuda/launch.hpp"

namespace raq::RAQ_LEVEL {
namespace {

using cuda::span, cuda::Task, cuda::Wave;

constexpr int together = 8;         // rows that one thread gives the errors of columns
constexpr int later_together = 32;  // rows that one thread gives the errors of rows

struct alignas(16) Four {
  float number[4];
};

// A thread for each column of a task, and `parts` groups for its rows.
__global__ void __launch_bounds__(span) feed_columns(Wave wave, std::int64_t parts) {
  const Task task = wave.task(blockIdx.x / parts);
  const std::int64_t length = wave.work.length, column = task.column + threadIdx.x;
  const std::int64_t first = task.row + blockIdx.x % parts * together;
  const int count = static_cast<int>(task.row + task.rows - first);
  if (count <= 0 || static_cast<int>(threadIdx.x) >= task.columns) return;
  float left[together];
  // Where there are fewer rows the last one is computed several times, and stored once.
  const auto row = [&](int i) { return (first + (i < count ? i : count - 1)) * length; };
  for (int i = 0; i < together; ++i) {
    left[i] = wave.work.weights[row(i) + column];
    if ((float_bits(left[i]) & 0x7f800000) == 0x7f800000)
      atomicMin(wave.work.first_bad, static_cast<cuda::Position>(row(i) + column));
  }
  for (std::int64_t j = 0; j < task.column; j += 4) {
    float factor[4];
    for (int k = 0; k < 4; ++k) factor[k] = wave.work.factor[(j + k) * length + column];
    for (int i = 0; i < together; ++i) {
      const Four errors = *reinterpret_cast<const Four*>(wave.work.errors + row(i) + j);
      for (int k = 0; k < 4; ++k) left[i] -= errors.number[k] * factor[k];
    }
  }
  for (int i = 0; i < together && i < count; ++i) wave.work.errors[row(i) + column] = left[i];
}

// A thread for each column of a task, and `parts` groups for the rows after it. If there are any, the task has
// `feedback_rows` rows.
__global__ void __launch_bounds__(span) feed_rows(Wave wave, std::int64_t parts) {
  const Task task = wave.task(blockIdx.x / parts);
  const std::int64_t length = wave.work.length, rows = wave.work.rows, column = task.column + threadIdx.x;
  const std::int64_t first = task.row + task.rows + blockIdx.x % parts * later_together;
  const std::int64_t last = first + later_together < rows ? first + later_together : rows;
  if (first >= last || static_cast<int>(threadIdx.x) >= task.columns) return;
  const float* coefficients = wave.work.row_factor + task.row * rows;
  // X with U_gg^T X = errors, by forward substitution, computed by every thread of the column.
  float fed[feedback_rows];
  for (int k = 0; k < feedback_rows; ++k) {
    float left = wave.work.weights[(task.row + k) * length + column];
    for (int i = 0; i < k; ++i) left -= coefficients[i * rows + task.row + k] * fed[i];
    fed[k] = left / coefficients[k * rows + task.row + k];
  }
  for (std::int64_t row = first; row < last; ++row) {
    float left = wave.work.weights[row * length + column];
    for (int k = 0; k < feedback_rows; ++k) left -= coefficients[k * rows + row] * fed[k];
    wave.work.weights[row * length + column] = left;
  }
}

}  // namespace
}  // namespace raq::RAQ_LEVEL

void raq::cuda::queue_feedback(const QuantType& type, const FeedbackWork& work, Effort effort,
                               cudaStream_t stream) {
  using namespace RAQ_LEVEL;
  if (work.rows == 0 || work.length == 0) return;
  const bool between_rows = work.row_factor != nullptr;
  const std::int64_t group_rows = between_rows ? feedback_rows : most_rows;
  const std::int64_t groups = groups_of(work.rows, group_rows), spans = groups_of(work.length, span);
  for (std::int64_t number = 0; number < spans + (between_rows ? groups - 1 : 0); ++number) {
    const std::int64_t first = between_rows ? std::max<std::int64_t>(0, number - spans + 1) : 0;
    const std::int64_t end = between_rows ? std::min(groups, number + 1) : groups;
    const Wave wave{work, number, first, group_rows, end - first};
    const std::int64_t parts = groups_of(group_rows, together);
    launch(feed_columns, wave.tasks * parts, span, stream, wave, parts);
    kernels(type).round_spans(wave, effort, stream);
    const std::int64_t later = work.rows - (first + 1) * group_rows;
    if (!between_rows || later <= 0) continue;
    const std::int64_t later_parts = groups_of(later, later_together);
    launch(feed_rows, wave.tasks * later_parts, span, stream, wave, later_parts);
  }
}
