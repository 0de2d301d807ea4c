#include "hulls.hpp"

#include <algorithm>
#include <limits>

namespace raq::knapsack {

namespace {

// The steepest step from a cell; a slope of 0 where nothing is saved.
Step steepest(std::span<const Cell> cells, const Cell& from, std::int32_t row, const Cell*& reached) {
  Step best{row, from.column, 0, 0.0, 0.0};
  for (const Cell& cell : cells) {
    const std::int64_t grown = cell.size - from.size;
    const double saved = from.excess - cell.excess;
    if (grown <= 0 || !(saved > 0)) continue;
    const double slope = saved / static_cast<double>(grown);
    if (slope > best.slope) {
      best = {row, cell.column, grown, saved, slope};
      reached = &cell;
    }
  }
  return best;
}

}  // namespace

const Cell& smallest(std::span<const Cell> row) {
  return *std::min_element(row.begin(), row.end(), [](const Cell& one, const Cell& other) {
    return one.size != other.size ? one.size < other.size : one.excess < other.excess;
  });
}

std::vector<Step> lower_hulls(const Rows& rows) {
  struct Walker {
    std::int32_t row;
    const Cell* at;
    double slope;
  };
  std::vector<Walker> walking;
  for (std::int32_t row = 0; row < rows.count(); ++row) {
    walking.push_back({row, &smallest(rows.row(row)), std::numeric_limits<double>::infinity()});
  }
  std::vector<Step> steps;
  // All rows walk at once, so that steps of equal slope are in the order of rounds, then of rows.
  while (!walking.empty()) {
    std::size_t going = 0;
    for (Walker walker : walking) {
      Step step = steepest(rows.row(walker.row), *walker.at, walker.row, walker.at);
      if (!(step.slope > 0)) continue;
      // Along a line rounding may make a later step the steeper one; it must not come before the earlier.
      step.slope = walker.slope = std::min(step.slope, walker.slope);
      steps.push_back(step);
      walking[going++] = walker;
    }
    walking.resize(going);
  }
  std::stable_sort(steps.begin(), steps.end(),
                   [](const Step& one, const Step& other) { return one.slope > other.slope; });
  return steps;
}

std::int64_t Relaxation::whole_steps(std::int64_t room) const {
  return std::upper_bound(spent.begin(), spent.end() - 1, room) - spent.begin() - 1;
}

Relaxation relaxation_from(std::span<const Step> steps, std::int32_t first) {
  Relaxation found;
  found.spent.reserve(steps.size() + 2);
  found.left.reserve(steps.size() + 2);
  found.slopes.reserve(steps.size() + 1);
  found.spent.push_back(0);
  for (const Step& step : steps) {
    if (step.row < first) continue;
    found.spent.push_back(found.spent.back() + step.size);
    found.left.push_back(step.saving);
    found.slopes.push_back(step.slope);
  }
  found.spent.push_back(found.spent.back());
  found.slopes.push_back(0.0);
  found.left.insert(found.left.end(), {0.0, 0.0});
  for (std::size_t k = found.left.size() - 2; k-- > 0;) found.left[k] += found.left[k + 1];
  return found;
}

}  // namespace raq::knapsack
