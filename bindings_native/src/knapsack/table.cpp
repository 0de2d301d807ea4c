#include "table.hpp"

#include <algorithm>
#include <cmath>

namespace raq::knapsack {

namespace {

struct Ranges {
  std::int64_t least_size;
  std::int64_t spread;
  double least_loss;
};

Ranges ranges_of(std::span<const Cell> row) {
  const auto [small, large] = std::minmax_element(
      row.begin(), row.end(), [](const Cell& one, const Cell& other) { return one.size < other.size; });
  const auto best = std::min_element(
      row.begin(), row.end(), [](const Cell& one, const Cell& other) { return one.excess < other.excess; });
  return {small->size, large->size - small->size, best->excess};
}

}  // namespace

Kept table_of(const Rows& rows, std::span<const std::int32_t> names) {
  Kept found{nullptr, 0, 0.0, {}};
  Sum settled, least;
  std::vector<Ranges> ranges;
  std::vector<std::int32_t> open;
  for (std::int32_t row = 0; row < rows.count(); ++row) {
    const std::span<const Cell> cells = rows.row(row);
    ranges.push_back(ranges_of(cells));
    found.size += ranges.back().least_size;
    (cells.size() == 1 ? settled : least).add(ranges.back().least_loss);
    if (cells.size() == 1)
      found.settled.emplace_back(names[row], cells.front().column);
    else
      open.push_back(row);
  }
  found.loss = settled.value() + least.value();
  std::stable_sort(open.begin(), open.end(), [&](std::int32_t one, std::int32_t other) {
    return ranges[one].spread > ranges[other].spread;
  });
  Table table;
  for (const std::int32_t row : open) {
    for (const Cell& cell : rows.row(row))
      table.rows.cells.push_back(
          {cell.size - ranges[row].least_size, cell.excess - ranges[row].least_loss, cell.column});
    table.rows.close();
    table.names.push_back(names[row]);
  }
  table.steps = lower_hulls(table.rows);
  found.table = std::make_shared<const Table>(std::move(table));
  return found;
}

void Sum::add(double term) {
  const double next = sum_ + term;
  lost_ += std::abs(sum_) >= std::abs(term) ? (sum_ - next) + term : (term - next) + sum_;
  sum_ = next;
}

}  // namespace raq::knapsack
