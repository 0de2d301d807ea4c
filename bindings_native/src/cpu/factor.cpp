// The factor of a Gram matrix, with threads over its rows (the steps are in factor.hpp).
#include <cmath>
#include <new>

#include "cpu/instruction_sets.hpp"
#include "cpu/threads.hpp"

namespace raq {
namespace {

// A square matrix of doubles, aligned as the kernels need it.
class Square {
 public:
  explicit Square(std::int64_t size)
      : data_(static_cast<double*>(::operator new(size * size * sizeof(double), alignment))) {}
  ~Square() { ::operator delete(data_, alignment); }
  Square(const Square&) = delete;
  Square& operator=(const Square&) = delete;
  double* data() const { return data_; }

 private:
  static constexpr std::align_val_t alignment{64};
  double* data_;
};

// The mean of the diagonal, after a look at every value that is read.
double mean_of_diagonal(const float* gram, std::int64_t columns) {
  double sum = 0;
  for (std::int64_t i = 0; i < columns; ++i) {
    const float* row = gram + i * columns;
    for (std::int64_t j = i; j < columns; ++j)
      if (!std::isfinite(row[j]))
        throw std::invalid_argument("gram [" + std::to_string(i) + ", " + std::to_string(j) +
                                    "] is NaN or infinite");
    sum += row[i];
  }
  return sum / static_cast<double>(columns);
}

// Row `i` of the damped matrix with rows and columns reversed; beyond it, of the identity.
void fill_row(double* row, const float* gram, std::int64_t columns, std::int64_t size, std::int64_t i,
              double added) {
  for (std::int64_t j = 0; j < size; ++j) row[j] = 0;
  if (i >= columns) {
    row[i] = 1;
    return;
  }
  // Upper triangle of the reversed matrix: the lower one of this, whose values are read above the diagonal.
  for (std::int64_t j = i; j < columns; ++j) row[j] = gram[(columns - 1 - j) * columns + (columns - 1 - i)];
  row[i] += added;
}

// Damping can be so large, or the matrix so nearly singular, that a double holds what a float does not.
void require_float32(const float* row, std::int64_t columns, std::int64_t i) {
  bool held = row[i] > 0;
  for (std::int64_t j = i; j < columns; ++j) held &= std::isfinite(row[j]);
  if (!held)
    throw std::invalid_argument("row " + std::to_string(i) + " of the factor is beyond the range of float32");
}

}  // namespace

void feedback_factor(const float* gram, std::int64_t columns, double damping, const Options& options,
                     float* factor) {
  if (!(damping >= 0) || !std::isfinite(damping))
    throw std::invalid_argument("damping is " + std::to_string(damping) + ", not a number from 0 up");
  if (columns == 0) return;
  const FactorKernels& kernels = factor_kernels(options.instruction_set);
  const int threads = threads_of(options);
  const double mean = mean_of_diagonal(gram, columns), added = mean == 0 ? 1.0 : damping * mean;
  const std::int64_t size = (columns + factor::step - 1) / factor::step * factor::step;
  const std::int64_t panels = (size + factor::panel - 1) / factor::panel;
  const auto first_of = [&](std::int64_t panel) { return std::min(panel * factor::panel, size); };
  const Square w(size), x(size);
  for_each_chunk(panels, threads, [&](std::int64_t panel) {
    for (std::int64_t i = first_of(panel); i < first_of(panel + 1); ++i) {
      fill_row(w.data() + i * size, gram, columns, size, i, added);
      double* row = x.data() + i * size;
      for (std::int64_t j = 0; j < size; ++j) row[j] = i == j;
    }
  });
  for (std::int64_t panel = 0; panel < panels; ++panel) {
    const std::int64_t first = first_of(panel), last = first_of(panel + 1);
    if (!kernels.finish_rows(w.data(), size, first, last))
      throw std::invalid_argument("the damped matrix is not positive definite");
    for_each_chunk(panels - panel - 1, threads, [&](std::int64_t later) {
      kernels.update_rows(w.data(), size, first, last, first_of(panel + 1 + later),
                          first_of(panel + 2 + later));
    });
  }
  for_each_chunk(panels, threads, [&](std::int64_t panel) {
    kernels.invert_rows(w.data(), x.data(), size, first_of(panel), first_of(panel + 1));
  });
  for_each_chunk(panels, threads, [&](std::int64_t panel) {
    for (std::int64_t i = first_of(panel); i < std::min(first_of(panel + 1), columns); ++i) {
      for (std::int64_t j = 0; j < columns; ++j)
        factor[i * columns + j] =
            j < i ? 0.0f : static_cast<float>(x.data()[(columns - 1 - j) * size + (columns - 1 - i)]);
      require_float32(factor + i * columns, columns, i);
    }
  });
}

}  // namespace raq
