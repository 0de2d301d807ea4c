#include "layer.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace raq::knapsack {

namespace {

// Chosen by measurement on the real instances; results do not depend on it.
constexpr std::size_t most_prices = 8;
constexpr double rounding = 8 * std::numeric_limits<double>::epsilon();

// A price of a byte, and what the rows left cost at it.
struct Price {
  double price;
  std::vector<double> least;  // per row, of loss and price together
  double rest;                // their sum
  double gap;  // the most that the bound of a state which uses this price is below the loss to beat
};

double priced(const Cell& cell, double price) { return cell.excess + price * static_cast<double>(cell.size); }

// Some of the different slopes, evenly chosen.
std::vector<double> some_of(std::vector<double> slopes) {
  std::sort(slopes.begin(), slopes.end());
  slopes.erase(std::unique(slopes.begin(), slopes.end()), slopes.end());
  if (slopes.size() <= most_prices) return slopes;
  std::vector<double> some;
  for (std::size_t k = 0; k < most_prices; ++k)
    some.push_back(slopes[(k * (slopes.size() - 1) + (most_prices - 1) / 2) / (most_prices - 1)]);
  return some;
}

Price at_price(const Layer& layer, double price) {
  Price found{price, {}, 0.0, 0.0};
  Sum sum;
  for (std::int32_t row = layer.depth; row < layer.table->rows.count(); ++row) {
    double least = std::numeric_limits<double>::infinity();
    for (const Cell& cell : layer.table->rows.row(row)) least = std::min(least, priced(cell, price));
    found.least.push_back(least);
    sum.add(least);
  }
  found.rest = sum.value();
  return found;
}

std::vector<Price> prices_of(const Layer& layer, std::int64_t capacity, double best) {
  const Relaxation relaxation = relaxation_from(layer.table->steps, layer.depth);
  std::vector<double> slopes;
  for (const State& state : layer.states)
    slopes.push_back(relaxation.slopes[relaxation.whole_steps(capacity - state.size)]);
  std::vector<Price> prices;
  for (const double slope : some_of(slopes)) prices.push_back(at_price(layer, slope));
  for (std::size_t k = 0; k < slopes.size(); ++k) {
    const State& state = layer.states[k];
    auto nearest = std::lower_bound(prices.begin(), prices.end(), slopes[k],
                                    [](const Price& price, double slope) { return price.price < slope; });
    if (nearest == prices.end() ||
        (nearest != prices.begin() && slopes[k] - (nearest - 1)->price <= nearest->price - slopes[k]))
      --nearest;
    const double paid = nearest->price * static_cast<double>(capacity - state.size);
    const double gap = best - state.loss - nearest->rest + paid;
    // The gap is the difference of sums that may be much larger than it, so their rounding error is added.
    nearest->gap = std::max(nearest->gap, gap + rounding * (state.loss + nearest->rest + paid));
  }
  return prices;
}

// Whether the cell's reduced cost is within the gap at some price; the best cell at any price always is.
bool usable(const Cell& cell, std::size_t row, const std::vector<Price>& prices) {
  return std::any_of(prices.begin(), prices.end(), [&](const Price& price) {
    const double least = price.least[row];
    return priced(cell, price.price) <= least + price.gap + rounding * least;
  });
}

}  // namespace

Trace::~Trace() {
  std::shared_ptr<const Trace> next = std::move(before);
  while (next && next.use_count() == 1) next = std::move(next->before);
}

void follow(const Trace* trace, std::size_t state, std::vector<Pick>& picks) {
  for (; trace; trace = trace->before.get()) {
    picks.insert(picks.end(), trace->settled.begin(), trace->settled.end());
    if (trace->row < 0) continue;
    picks.emplace_back(trace->row, trace->columns[state]);
    state = trace->origins[state];
  }
}

Layer cut(const Layer& layer, std::int64_t capacity, double best) {
  const std::vector<Price> prices = prices_of(layer, capacity, best);
  const Table& table = *layer.table;
  Rows kept;
  for (std::int32_t row = layer.depth; row < table.rows.count(); ++row) {
    for (const Cell& cell : table.rows.row(row))
      if (usable(cell, static_cast<std::size_t>(row - layer.depth), prices)) kept.cells.push_back(cell);
    kept.close();
  }
  Kept core = table_of(kept, std::span(table.names).subspan(static_cast<std::size_t>(layer.depth)));
  Layer found{core.table, 0, layer.states, layer.bound, nullptr, 0};
  for (State& state : found.states) {
    state.size += core.size;
    state.loss += core.loss;
  }
  Trace trace;
  trace.before = layer.trace;
  trace.settled = std::move(core.settled);
  found.trace = std::make_shared<const Trace>(std::move(trace));
  return found;
}

void keep_undominated(std::vector<State>& states, std::vector<std::size_t> runs, Pauses& pauses) {
  const auto smaller = [](const State& one, const State& other) { return one.size < other.size; };
  std::vector<State> merged(states.size());
  while (runs.size() > 1) {
    std::vector<std::size_t> ends;
    std::size_t start = 0;
    for (std::size_t k = 0; k < runs.size(); k += 2) {
      const std::size_t middle = runs[k], end = k + 1 < runs.size() ? runs[k + 1] : middle;
      const auto at = states.begin();
      pauses.look();
      std::merge(at + start, at + middle, at + middle, at + end, merged.begin() + start, smaller);
      ends.push_back(start = end);
    }
    states.swap(merged);
    runs.swap(ends);
  }
  std::size_t kept = 0;
  for (const State& state : states) {
    if (kept && !(state.loss < states[kept - 1].loss)) continue;
    if (kept && states[kept - 1].size == state.size) --kept;
    states[kept++] = state;
  }
  states.resize(kept);
}

}  // namespace raq::knapsack
