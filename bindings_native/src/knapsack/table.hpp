// The rows that are still open, relative to the smallest and the best cell of each.
//
// Sizes are bytes beyond the row's smallest cell, excess is loss beyond the row's least loss. What is
// subtracted is added to the totals beside the table (`Kept`), so that nothing is added and subtracted again:
// that would cost accuracy. Rows are in the order in which a search takes them, the widest range of sizes
// first, because their choice decides how much room the others have.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "hulls.hpp"

namespace raq::knapsack {

// Open rows; `names` are their numbers in the knapsack.
struct Table {
  Rows rows;
  std::vector<std::int32_t> names;
  std::vector<Step> steps;
};

using Pick = std::pair<std::int32_t, std::int32_t>;  // row and column of the knapsack

// A table cut down to some of its cells, and the rows that this settled.
struct Kept {
  std::shared_ptr<const Table> table;
  std::int64_t size;
  double loss;
  std::vector<Pick> settled;
};

// The table of these cells. Rows with one cell are settled.
Kept table_of(const Rows& rows, std::span<const std::int32_t> names);

// A sum whose error does not grow with the number of terms.
// Source: Neumaier, Rundungsfehleranalyse einiger Verfahren zur Summation endlicher Summen, ZAMM 54 (1974).
class Sum {
 public:
  void add(double term);
  double value() const { return sum_ + lost_; }

 private:
  double sum_ = 0.0;
  double lost_ = 0.0;
};

}  // namespace raq::knapsack
