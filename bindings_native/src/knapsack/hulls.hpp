// Lower convex hulls of all rows, merged by slope: the linear relaxation of every capacity at once.
//
// Losses here are excesses over the least loss of their row. All sums are of numbers that are not negative,
// small ones first, so they keep their relative accuracy when losses span many orders of magnitude. A row's
// chain starts at its smallest cell and takes the steepest step (most loss saved per byte) until nothing is
// saved. Slopes fall along a chain, so that any prefix of the merged steps is a prefix of every chain.
// Source: Sinha and Zoltners, The multiple-choice knapsack problem, Operations Research 27 (1979).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace raq::knapsack {

struct Cell {
  std::int64_t size;
  double excess;
  std::int32_t column;  // of the knapsack
};

// Rows of cells, one after the other; every row has a cell.
struct Rows {
  std::vector<Cell> cells;
  std::vector<std::size_t> starts{0};  // one more than rows

  std::int32_t count() const { return static_cast<std::int32_t>(starts.size()) - 1; }
  std::span<const Cell> row(std::int32_t index) const {
    return {cells.data() + starts[index], starts[index + 1] - starts[index]};
  }
  void close() { starts.push_back(cells.size()); }  // ends the row whose cells were added last
};

// Takes `row` to `column`, which costs `size` bytes and saves `saving` of loss.
struct Step {
  std::int32_t row;
  std::int32_t column;
  std::int64_t size;
  double saving;
  double slope;
};

// The smallest cell of a row; of several, the first of least loss.
const Cell& smallest(std::span<const Cell> row);

// The merged chains of all rows from their smallest cells, steepest step first; O(cells x longest chain).
std::vector<Step> lower_hulls(const Rows& rows);

// Least excess loss as a function of the bytes beyond the smallest choice: convex, piecewise linear. After k
// steps `spent[k]` bytes are spent and `left[k]` of loss is left. Both have one point more at the end, so
// that k + 1 always exists; the last slope is 0.
struct Relaxation {
  std::vector<std::int64_t> spent;
  std::vector<double> left;
  std::vector<double> slopes;

  // How many whole steps fit into `room` bytes; -1 if it is negative.
  std::int64_t whole_steps(std::int64_t room) const;
  // Least excess loss within the room when a part of the next step may be taken.
  double bound(std::int64_t steps, std::int64_t room) const {
    return left[steps + 1] + slopes[steps] * static_cast<double>(spent[steps + 1] - room);
  }
};

// The relaxation over the steps of the rows from `first` on.
Relaxation relaxation_from(std::span<const Step> steps, std::int32_t first);

}  // namespace raq::knapsack
