// The Python module: array shapes and types, names and docstrings. No arithmetic.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>

#include <cmath>
#include <memory>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>

#include "search.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace raq::knapsack;

namespace {

template <class Value>
using Matrix = nb::ndarray<const Value, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class Value>
using NewVector = nb::ndarray<nb::numpy, Value, nb::ndim<1>, nb::c_contig>;
using Hulls = std::tuple<NewVector<std::int64_t>, NewVector<std::int64_t>, NewVector<std::int64_t>,
                         NewVector<std::int64_t>, NewVector<double>, NewVector<double>>;
using Check = nb::typed<nb::callable, void()>;
using Found = std::pair<std::optional<NewVector<std::int64_t>>, std::optional<double>>;

template <class Value>
NewVector<Value> new_vector(std::vector<Value> values) {
  auto* held = new std::vector<Value>(std::move(values));
  nb::capsule owner(held, [](void* p) noexcept { delete static_cast<std::vector<Value>*>(p); });
  return NewVector<Value>(held->data(), {held->size()}, owner);
}

// The chosen cells; all that have a finite excess where `kept` is not given.
Rows rows_of(const Matrix<std::int64_t>& sizes, const Matrix<double>& excess, const Matrix<bool>* kept) {
  const std::size_t count = sizes.shape(0), columns = sizes.shape(1);
  if (excess.shape(0) != count || excess.shape(1) != columns ||
      (kept && (kept->shape(0) != count || kept->shape(1) != columns)))
    throw std::invalid_argument("sizes, excess and kept differ in shape");
  Rows rows;
  for (std::size_t row = 0; row < count; ++row) {
    for (std::size_t column = 0; column < columns; ++column) {
      const std::size_t at = row * columns + column;
      if (kept ? !kept->data()[at] : std::isinf(excess.data()[at])) continue;
      if (!(excess.data()[at] >= 0 && std::isfinite(excess.data()[at])))
        throw std::invalid_argument("excess [" + std::to_string(row) + ", " + std::to_string(column) +
                                    "] is negative, NaN or infinite");
      rows.cells.push_back({sizes.data()[at], excess.data()[at], static_cast<std::int32_t>(column)});
    }
    if (rows.cells.size() == rows.starts.back())
      throw std::invalid_argument("row " + std::to_string(row) + " has no cell");
    rows.close();
  }
  return rows;
}

Hulls merged_hulls(const Matrix<std::int64_t>& sizes, const Matrix<double>& excess) {
  const Rows rows = rows_of(sizes, excess, nullptr);
  std::vector<std::int64_t> start, step_rows, step_columns;
  for (std::int32_t row = 0; row < rows.count(); ++row) start.push_back(smallest(rows.row(row)).column);
  const std::vector<Step> steps = lower_hulls(rows);
  for (const Step& step : steps) {
    step_rows.push_back(step.row);
    step_columns.push_back(step.column);
  }
  Relaxation relaxation = relaxation_from(steps, 0);
  return {new_vector(std::move(start)),           new_vector(std::move(step_rows)),
          new_vector(std::move(step_columns)),    new_vector(std::move(relaxation.spent)),
          new_vector(std::move(relaxation.left)), new_vector(std::move(relaxation.slopes))};
}

// Signals reach the main thread only; `check` lets other threads end the search by raising.
void pause(const std::optional<Check>& check) {
  const nb::gil_scoped_acquire locked;
  if (PyErr_CheckSignals() != 0) throw nb::python_error();
  if (check) (*check)();
}

Found search_kept(const Matrix<std::int64_t>& sizes, const Matrix<double>& excess, const Matrix<bool>& kept,
                  std::int64_t capacity, double best, double tolerance, double seconds,
                  std::size_t largest_layer, const std::optional<Check>& check) {
  const Rows rows = rows_of(sizes, excess, &kept);
  std::vector<std::int32_t> names(static_cast<std::size_t>(rows.count()));
  std::iota(names.begin(), names.end(), 0);
  Answer answer;
  {
    const nb::gil_scoped_release unlocked;
    answer = search(table_of(rows, names),
                    {capacity, best, tolerance, seconds, largest_layer, [&check] { pause(check); }});
  }
  if (answer.picks.empty()) return {std::nullopt, answer.bound};
  std::vector<std::int64_t> columns(names.size());
  for (const auto& [row, column] : answer.picks) columns[static_cast<std::size_t>(row)] = column;
  return {new_vector(std::move(columns)), answer.bound};
}

}  // namespace

NB_MODULE(_knapsack, module) {
  module.doc() = "The multiple-choice knapsack on arrays: its linear relaxation and its exact search.";
  module.def(
      "merged_hulls", &merged_hulls, "sizes"_a.noconvert(), "excess"_a.noconvert(),
      "The lower hulls of all rows, merged by slope.\n\n"
      "`sizes` int64[rows, types] in bytes; `excess` float64[rows, types] is loss beyond the least of its\n"
      "row, infinite where there is no cell. Returns `start`, the column of each row's smallest cell;\n"
      "`rows` and `columns` of the steps, steepest first; and the relaxation over them: after k steps\n"
      "`spent[k]` bytes beyond the smallest choice are spent and `left[k]` of loss is left, both with one\n"
      "point more at the end, `slopes[k]` per byte for the next step, 0 after the last.\n\n"
      "Raises ValueError for arrays of different shapes, a negative or NaN excess and a row without cells.");
  module.def(
      "search", &search_kept, "sizes"_a.noconvert(), "excess"_a.noconvert(), "kept"_a.noconvert(),
      nb::kw_only(), "capacity"_a, "best"_a, "tolerance"_a, "seconds"_a, "largest_layer"_a,
      "check"_a = nb::none(),
      "The choice of least excess loss within the capacity in bytes, if it is below `best`.\n\n"
      "Only cells that are `kept`, bool[rows, types], are used. What is better by less than `tolerance` is\n"
      "not looked for. `seconds` may be infinite. A layer of more states than `largest_layer` is split,\n"
      "which bounds the memory; results do not depend on it. Deterministic unless stopped by time.\n"
      "`check` is called about 50 times a second; what it raises ends the search.\n\n"
      "Returns the column of each row, or None where nothing is better, and None when that is proven, else\n"
      "a lower bound on the excess loss of every choice.\n\n"
      "Raises ValueError for arrays of different shapes, a kept cell whose excess is negative, NaN or\n"
      "infinite, and a row without kept cells; what `check` raises; what a signal handler raises, such as\n"
      "KeyboardInterrupt.");
}
