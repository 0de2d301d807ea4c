// Groups of rows in their order; between them the products E H of all rows are kept, from which the gradient of a group
// follows (the steps are in refinement.hpp).
#include "refine.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/instruction_sets.hpp"
#include "cpu/scratch.hpp"
#include "cpu/threads.hpp"

namespace raq {
namespace {

constexpr std::int64_t group_rows = groups::rows;

void require_metric(const float* matrix, std::int64_t size, const char* name) {
  for (std::int64_t i = 0; i < size; ++i) {
    const float* row = matrix + i * size;
    for (std::int64_t j = 0; j < size; ++j)
      if (!std::isfinite(row[j]))
        throw std::invalid_argument(std::string(name) + " [" + std::to_string(i) + ", " + std::to_string(j) +
                                    "] is NaN or infinite");
    if (row[i] <= 0 || !std::isnormal(1 / row[i]))
      throw std::invalid_argument(std::string(name) + " [" + std::to_string(i) + ", " + std::to_string(i) +
                                  "] is on the diagonal, but not a positive number whose inverse is one");
  }
}

class Refiner {
 public:
  Refiner(const QuantType& type, const Rows& rows, const float* gram, const float* row_gram,
          const Options& options, std::uint8_t* blocks)
      : rows_(rows),
        gram_(gram),
        row_gram_(row_gram),
        options_(options),
        type_(type),
        kernels_(cpu_kernels(type, options.instruction_set)),
        steps_(group_kernels(options.instruction_set)),
        threads_(threads_of(options)),
        blocks_(blocks),
        values_(rows.count * rows.length),
        products_(rows.count * rows.length),
        diagonal_(rows.length) {
    for (std::int64_t j = 0; j < rows.length; ++j) diagonal_[j] = gram[j * rows.length + j];
    dequantize(type, blocks, rows.count, rows.length, options, values_.data());
    std::vector<float> errors(values_.size()), products(values_.size());
    for (std::size_t i = 0; i < errors.size(); ++i) errors[i] = values_[i] - rows.weights[i];
    const Product of{errors.data(), gram, products.data(), rows.count, rows.length, rows.length};
    for_each_part([&](std::int64_t from, std::int64_t to) {
      factor_kernels(options.instruction_set).multiply(of, from, to);
      steps_.pack(products.data() + from, rows.length, rows.count, to - from,
                  products_.data() + from * rows.count);
    });
  }

  void sweep() {
    const std::int64_t groups = (rows_.count + group_rows - 1) / group_rows;
    if (row_gram_ == nullptr)  // rows do not depend on each other
      for_each_chunk(groups, threads_, [&](std::int64_t group) { refine_alone(group * group_rows); });
    else
      for (std::int64_t group = 0; group < groups; ++group) refine_together(group * group_rows);
  }

 private:
  const Rows& rows_;
  const float *gram_, *row_gram_;
  const Options& options_;
  const QuantType& type_;
  const Kernels& kernels_;
  const GroupKernels& steps_;
  int threads_;
  std::uint8_t* blocks_;
  std::vector<float> values_;    // what the blocks say
  Scratch products_;             // E H, in strips
  std::vector<float> diagonal_;  // of H

  // Parts of the columns for all threads.
  template <class Work>
  void for_each_part(Work work) const {
    const std::int64_t step = multiply::column_step, parts = (rows_.length + step - 1) / step;
    for_each_chunk(parts, threads_,
                   [&](std::int64_t part) { work(part * step, std::min((part + 1) * step, rows_.length)); });
  }

  std::int64_t count_from(std::int64_t first) const { return std::min(group_rows, rows_.count - first); }

  // The gradient is the rows of E H themselves.
  void refine_alone(std::int64_t first) {
    const std::int64_t count = count_from(first), length = rows_.length;
    const Scratch gradient(length * group_rows);
    for (std::int64_t k = 0; k < length; ++k)
      for (std::int64_t i = 0; i < group_rows; ++i)
        gradient.data()[k * group_rows + i] = i < count ? product_of(first + i, k) : 0.0f;
    float of_rows[group_rows * group_rows] = {};
    for (std::int64_t i = 0; i < group_rows; ++i) of_rows[i * group_rows + i] = 1;
    refine(first, gradient.data(), of_rows);
  }

  float product_of(std::int64_t row, std::int64_t column) const {
    const std::int64_t place = column % groups::strip;
    return products_.data()[(column - place) * rows_.count + row * groups::strip + place];
  }

  void refine_together(std::int64_t first) {
    const std::int64_t count = count_from(first), length = rows_.length, rows = rows_.count;
    const Scratch gradient(length * group_rows), of_group(rows * group_rows);
    float of_rows[group_rows * group_rows] = {};
    const float* const from_rows = row_gram_ + first * rows;
    const std::int64_t whole = rows / multiply::column_step * multiply::column_step;
    steps_.load(from_rows, count, rows, whole, of_group.data());
    for (std::int64_t k = whole; k < rows; ++k)
      for (std::int64_t i = 0; i < group_rows; ++i)
        of_group.data()[k * group_rows + i] = i < count ? from_rows[i * rows + k] : 0.0f;
    for (std::int64_t i = 0; i < group_rows; ++i)
      for (std::int64_t j = 0; j < group_rows; ++j)
        of_rows[i * group_rows + j] = i < count && j < count ? from_rows[i * rows + first + j] : i == j;
    for_each_part([&](std::int64_t from, std::int64_t to) {
      std::fill_n(gradient.data() + from * group_rows, (to - from) * group_rows, 0.0f);
      steps_.add(gradient.data() + from * group_rows, to - from, of_group.data(), rows,
                 products_.data() + from * rows, rows);
    });
    refine(first, gradient.data(), of_rows);
  }

  void refine(std::int64_t first, float* gradient, const float* of_rows) {
    const std::int64_t count = count_from(first), length = rows_.length;
    float* const values = values_.data() + first * length;
    std::uint8_t* const blocks = blocks_ + first * type_.row_bytes(length);
    const Scratch group(length * group_rows);
    steps_.load(values, count, length, length, group.data());
    kernels_.refine({gram_, diagonal_.data(), of_rows, gradient, group.data(), count, length}, blocks);
    std::vector<float> now(count * length), changes(length);
    std::vector<std::int32_t> places(length);
    kernels_.dequantize(blocks, count * length / type_.weights_per_block, now.data());
    steps_.change(now.data(), values, count, length, gram_, products_.data() + first * groups::strip,
                  rows_.count, places.data(), changes.data());
  }
};

}  // namespace

void refine_codes(const QuantType& type, const Rows& rows, const float* gram, const float* row_gram,
                  int sweeps, const Options& options, std::uint8_t* blocks) {
  type.row_bytes(rows.length);
  if (cpu_kernels(type, options.instruction_set).refine == nullptr) throw NoFeedback(type);
  if (sweeps < 0) throw std::invalid_argument("sweeps is negative");
  require_metric(gram, rows.length, "gram");
  if (row_gram != nullptr) require_metric(row_gram, rows.count, "row_gram");
  for (std::int64_t i = 0; i < rows.count * rows.length; ++i)
    if (!std::isfinite(rows.weights[i])) throw NonFiniteWeight(i / rows.length, i % rows.length);
  if (rows.count == 0 || sweeps == 0) return;
  Refiner refiner(type, rows, gram, row_gram, options, blocks);
  for (int i = 0; i < sweeps; ++i) refiner.sweep();
}

}  // namespace raq
