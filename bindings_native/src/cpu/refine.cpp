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

constexpr std::int64_t group_rows = refine::rows;

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
        multiply_(factor_kernels(options.instruction_set).multiply),
        threads_(threads_of(options)),
        blocks_(blocks),
        values_(rows.count * rows.length),
        products_(rows.count * rows.length),
        diagonal_(rows.length) {
    for (std::int64_t j = 0; j < rows.length; ++j) diagonal_[j] = gram[j * rows.length + j];
    dequantize(type, blocks, rows.count, rows.length, options, values_.data());
    std::vector<float> errors(values_.size());
    for (std::size_t i = 0; i < errors.size(); ++i) errors[i] = values_[i] - rows.weights[i];
    multiply({errors.data(), gram, products_.data(), rows.count, rows.length, rows.length, rows.length},
             threads_);
  }

  void sweep() {
    const std::int64_t groups = (rows_.count + group_rows - 1) / group_rows;
    if (row_gram_ == nullptr)  // rows do not depend on each other
      for_each_chunk(groups, threads_, [&](std::int64_t group) { refine_group(group * group_rows); });
    else
      for (std::int64_t group = 0; group < groups; ++group) refine_group(group * group_rows);
  }

 private:
  const Rows& rows_;
  const float *gram_, *row_gram_;
  const Options& options_;
  const QuantType& type_;
  const Kernels& kernels_;
  MultiplyKernel multiply_;
  int threads_;
  std::uint8_t* blocks_;
  std::vector<float> values_, products_, diagonal_;  // what the blocks say; E H; the diagonal of H

  void multiply(const Product& product, int threads) const {
    const std::int64_t step = multiply::column_step, parts = (product.columns + step - 1) / step;
    for_each_chunk(parts, threads, [&](std::int64_t part) {
      multiply_(product, part * step, std::min((part + 1) * step, product.columns));
    });
  }

  void refine_group(std::int64_t first) {
    const std::int64_t count = std::min(group_rows, rows_.count - first), length = rows_.length;
    float* const values = values_.data() + first * length;
    float* const products = products_.data() + first * length;
    std::vector<float> made;
    const float* gradient = products;
    float of_rows[group_rows * group_rows] = {};
    for (std::int64_t i = 0; i < group_rows; ++i) of_rows[i * group_rows + i] = 1;
    if (row_gram_ != nullptr) {
      made.resize(count * length);
      const float* of_group = row_gram_ + first * rows_.count;
      multiply({of_group, products_.data(), made.data(), count, rows_.count, length, rows_.count}, threads_);
      gradient = made.data();
      for (std::int64_t i = 0; i < count; ++i)
        for (std::int64_t j = 0; j < count; ++j)
          of_rows[i * group_rows + j] = of_group[i * rows_.count + first + j];
    }
    const Scratch scratch(2 * group_rows * length);
    std::uint8_t* const blocks = blocks_ + first * type_.row_bytes(length);
    kernels_.refine({gram_, diagonal_.data(), of_rows, gradient, values, count, length, scratch.data()},
                    blocks);
    std::vector<float> now(count * length);
    kernels_.dequantize(blocks, count * length / type_.weights_per_block, now.data());
    for (std::int64_t i = 0; i < count * length; ++i) {
      const float change = now[i] - values[i];
      if (change == 0) continue;
      float* const row = products + i / length * length;
      const float* const column = gram_ + i % length * length;
      for (std::int64_t k = 0; k < length; ++k) row[k] += change * column[k];
      values[i] = now[i];
    }
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
