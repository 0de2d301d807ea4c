// Rounding with error feedback on a device, in waves.
//
// A task rounds a span of columns of a group of rows. Between columns it needs the spans before it in its own
// rows; between rows, where their errors are fed forward too, the same span of all groups before it. So tasks whose
// numbers of group and span have the same sum are independent: they are a wave. Without a row factor rows are
// independent, and all tasks of one span are a wave.
//
// A wave is three kernels: the errors of earlier columns are subtracted from the weights of its spans; the spans
// are rounded (cuda/kernels.cu); what that leaves is subtracted from later rows. From a weight products are
// subtracted one by one, first in the order of rows, then in that of columns: the processor's, so no bit differs.
#pragma once

#include "cuda/kernels.hpp"

namespace raq::cuda {

constexpr int span = 256;      // columns of a task: whole blocks of every format
constexpr int most_rows = 32;  // of a task

// All pointers are to memory of one device.
struct FeedbackWork {
  float* weights;  // row after row. With a row factor, what rounding leaves of a row takes its place
  float* errors;   // of columns, in the place of updated weights; without a row factor, `weights` itself
  const float* importance;  // 1 / U_jj^2
  const float* factor;      // U, see cpu/feedback.hpp
  const float* row_factor;  // or null
  std::uint8_t* blocks;
  Position* first_bad;  // becomes the smaller of itself and the position that the processor reports
  std::int64_t rows, length;
};

struct Task {
  std::int64_t row, column;  // the first ones
  int rows, columns;
};

struct Wave {
  FeedbackWork work;
  std::int64_t number, first_group, group_rows, tasks;

  __device__ Task task(std::int64_t index) const {
    const std::int64_t group = first_group + index;
    const std::int64_t row = group * group_rows;
    const std::int64_t column = (work.row_factor != nullptr ? number - group : number) * span;
    const std::int64_t rows = work.rows - row, columns = work.length - column;
    return {row, column, static_cast<int>(rows < group_rows ? rows : group_rows),
            static_cast<int>(columns < span ? columns : span)};
  }
};

// Queues all waves.
void queue_feedback(const QuantType& type, const FeedbackWork& work, Effort effort, cudaStream_t stream);

}  // namespace raq::cuda
