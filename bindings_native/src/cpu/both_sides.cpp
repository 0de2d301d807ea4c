// Rows are rounded group after group. What a group's rounding adds to the outputs is then taken back, as far as they
// vary together, by the rows that are still to come: the same step as between columns (feedback.hpp), transposed.
#include "both_sides.hpp"

#include <algorithm>
#include <vector>

#include "cpu/threads.hpp"

namespace raq {
namespace {

typedef float Floats __attribute__((vector_size(16)));
constexpr std::int64_t wide = sizeof(Floats) / sizeof(float);

// row[j] -= coefficients[k] * errors[k][j] for k from 0 up, in this order for every j: lanes change no bit.
void subtract(float* row, const float* coefficients, const float* errors, std::int64_t count,
              std::int64_t length) {
  std::int64_t j = 0;
  for (; j + wide <= length; j += wide) {
    Floats left;
    __builtin_memcpy(&left, row + j, sizeof left);
    for (std::int64_t k = 0; k < count; ++k) {
      Floats error;
      __builtin_memcpy(&error, errors + k * length + j, sizeof error);
      left -= coefficients[k] * error;
    }
    __builtin_memcpy(row + j, &left, sizeof left);
  }
  for (; j < length; ++j)
    for (std::int64_t k = 0; k < count; ++k) row[j] -= coefficients[k] * errors[k * length + j];
}

// From the errors of a group to what is fed forward: X with U_gg^T X = errors, by forward substitution.
void substitute(float* errors, const float* factor, std::int64_t rows, std::int64_t count,
                std::int64_t length) {
  for (std::int64_t k = 0; k < count; ++k) {
    float above[feedback_rows];
    for (std::int64_t i = 0; i < k; ++i) above[i] = factor[i * rows + k];
    subtract(errors + k * length, above, errors, k, length);
    const float pivot = factor[k * rows + k];
    for (std::int64_t j = 0; j < length; ++j) errors[k * length + j] /= pivot;
  }
}

}  // namespace

void quantize_on_both_sides(const QuantType& type, const Rows& rows, const float* factor,
                            const float* row_factor, const Options& options, std::uint8_t* blocks) {
  importance_of(row_factor, rows.count);  // refuses what is no factor
  const std::int64_t length = rows.length, row_bytes = type.row_bytes(length);
  const int threads = threads_of(options);
  std::vector<float> left(rows.weights, rows.weights + rows.count * length);
  std::vector<float> errors(std::min(feedback_rows, rows.count) * length);
  for (std::int64_t first = 0; first < rows.count; first += feedback_rows) {
    const std::int64_t count = std::min(feedback_rows, rows.count - first), later = first + count;
    float* group = left.data() + first * length;
    try {
      quantize_with_feedback(type, {group, nullptr, count, length}, factor, options,
                             blocks + first * row_bytes);
    } catch (const NonFiniteWeight& bad) {
      throw NonFiniteWeight(first + bad.row, bad.column);
    }
    if (later == rows.count) break;
    dequantize(type, blocks + first * row_bytes, count, length, options, errors.data());
    for (std::int64_t i = 0; i < count * length; ++i) errors[i] = group[i] - errors[i];
    const float* corner = row_factor + first * rows.count + first;
    substitute(errors.data(), corner, rows.count, count, length);
    const std::int64_t chunks = (rows.count - later + feedback_rows - 1) / feedback_rows;
    for_each_chunk(chunks, threads, [&](std::int64_t chunk) {
      const std::int64_t from = later + chunk * feedback_rows;
      for (std::int64_t row = from; row < std::min(from + feedback_rows, rows.count); ++row) {
        float coefficients[feedback_rows];
        for (std::int64_t k = 0; k < count; ++k) coefficients[k] = row_factor[(first + k) * rows.count + row];
        subtract(left.data() + row * length, coefficients, errors.data(), count, length);
      }
    });
  }
}

}  // namespace raq
