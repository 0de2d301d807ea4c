// The rows that are still open, reckoned from the smallest and the best cell of each.
//
// Sizes are bytes beyond the row's smallest cell, excess is loss beyond the row's least loss. What is
// subtracted goes into the totals of whoever holds the table, so that nothing is ever added and taken away
// again. Rows stand in the order in which a search takes them: the widest range of sizes first, as their
// choice decides how the others fill what is left.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "hulls.hpp"

namespace raq::knapsack {

// Open rows; `names` says where they stand in the knapsack.
struct Table {
  Rows rows;
  std::vector<std::int32_t> names;
  std::vector<Step> steps;
};

using Pick = std::pair<std::int32_t, std::int32_t>;  // row and column of the knapsack

// A table cut down to some of its cells, and what was settled by that.
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
