#include "search.hpp"

#include <algorithm>
#include <chrono>

#include "layer.hpp"

namespace raq::knapsack {

namespace {

constexpr int rows_between_cuts = 18;
constexpr int fewest_rows_to_cut = 12;
// Chosen by measurement on the real instances; results do not depend on them.
//
// Parts are smallest once the stack holds the states of this many largest layers.
constexpr std::size_t layers_waiting = 8;
constexpr std::size_t fewest_part_states = 1024;

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// A solution: a state, the column of its next row, then whole steps of the rows after that.
struct Find {
  std::shared_ptr<const Table> table;
  std::shared_ptr<const Trace> trace;
  std::int32_t depth;
  std::size_t state;
  std::int32_t column;
  std::int64_t steps;
};

class Search {
 public:
  explicit Search(const Question& question)
      : question_(question), best_(question.best), pauses_(question.pause) {}

  Answer run(const Kept& core);

 private:
  std::vector<State> extended(const Layer& layer, const Relaxation& relaxation);
  void children(const Layer& layer);
  std::size_t part_states() const;
  void push_parts(Layer layer);
  std::vector<Pick> picks(const Kept& core) const;

  const Question& question_;
  double best_;
  std::optional<Find> find_;
  std::vector<Layer> stack_;
  std::size_t waiting_ = 0;  // states on the stack
  Pauses pauses_;
};

// The states after one row more that may still lead to something better. Keeps the best solution found.
std::vector<State> Search::extended(const Layer& layer, const Relaxation& relaxation) {
  std::vector<State> found;
  std::vector<std::size_t> runs;
  for (const Cell& cell : layer.table->rows.row(layer.depth)) {
    for (std::size_t k = 0; k < layer.states.size(); ++k) {
      if ((k & 0x3fff) == 0) pauses_.look();
      const std::int64_t size = cell.size + layer.states[k].size, room = question_.capacity - size;
      if (room < 0) break;  // those after are larger
      const double loss = cell.excess + layer.states[k].loss;
      const std::int64_t steps = relaxation.whole_steps(room);
      const double reached = loss + relaxation.left[steps], bound = loss + relaxation.bound(steps, room);
      if (reached < best_) {
        best_ = reached;
        find_ = Find{layer.table, layer.trace, layer.depth, k, cell.column, steps};
      }
      if (bound < best_ - question_.tolerance)
        found.push_back({size, loss, bound, cell.column, static_cast<std::uint32_t>(k)});
    }
    runs.push_back(found.size());
  }
  // `best_` may have fallen since they were found, so some are dropped again, and the ends of runs move.
  std::size_t kept = 0, at = 0;
  for (std::size_t& end : runs) {
    for (; at < end; ++at)
      if (found[at].bound < best_ - question_.tolerance) found[kept++] = found[at];
    end = kept;
  }
  found.resize(kept);
  keep_undominated(found, std::move(runs), pauses_);
  return found;
}

void Search::children(const Layer& layer) {
  Layer child{layer.table, layer.depth + 1, {}, 0.0, layer.trace, layer.rows_since_cut + 1};
  child.states = extended(layer, relaxation_from(layer.table->steps, layer.depth + 1));
  if (!child.states.empty()) push_parts(std::move(child));
}

// The most states that a part may have: the more states wait on the stack, the fewer, so that memory stays
// bounded.
std::size_t Search::part_states() const {
  const std::size_t largest = question_.largest_layer, bound = layers_waiting * largest;
  const std::size_t room = bound > waiting_ ? (bound - waiting_) / layers_waiting : 0;
  return std::max(room, std::min(fewest_part_states, largest));
}

// Puts the layer on the stack. One that is too large goes there in parts, the most promising last, because
// the last is taken first.
void Search::push_parts(Layer layer) {
  const std::int32_t row = layer.table->names[layer.depth - 1];
  const auto push = [&](std::vector<State> states) {
    Trace trace;
    trace.before = layer.trace;
    trace.row = row;
    Layer part{layer.table, layer.depth, std::move(states), 0.0, nullptr, layer.rows_since_cut};
    part.bound = part.states.front().bound;
    for (const State& state : part.states) {
      trace.columns.push_back(state.column);
      trace.origins.push_back(state.origin);
      part.bound = std::min(part.bound, state.bound);
    }
    part.trace = std::make_shared<const Trace>(std::move(trace));
    waiting_ += part.states.size();
    stack_.push_back(std::move(part));
  };
  const std::size_t most = part_states();
  if (layer.states.size() <= most) return push(std::move(layer.states));
  std::vector<State> promising = std::move(layer.states);
  std::stable_sort(promising.begin(), promising.end(), [this](const State& one, const State& other) {
    pauses_.step();
    return one.bound < other.bound;
  });
  for (std::size_t end = promising.size(); end > 0;) {
    const std::size_t start = (end - 1) / most * most;
    const auto at = promising.begin();
    std::vector<State> part(at + static_cast<std::ptrdiff_t>(start), at + static_cast<std::ptrdiff_t>(end));
    pauses_.look();
    std::sort(part.begin(), part.end(),
              [](const State& one, const State& other) { return one.size < other.size; });
    push(std::move(part));
    end = start;
  }
}

std::vector<Pick> Search::picks(const Kept& core) const {
  std::vector<Pick> picks;
  if (!find_) return picks;
  picks = core.settled;
  const Table& table = *find_->table;
  for (std::int32_t row = find_->depth; row < table.rows.count(); ++row)
    picks.emplace_back(table.names[row], smallest(table.rows.row(row)).column);
  picks.emplace_back(table.names[find_->depth], find_->column);
  std::int64_t left = find_->steps;
  for (auto step = table.steps.begin(); left > 0; ++step)
    if (step->row > find_->depth) {
      picks.emplace_back(table.names[step->row], step->column);
      --left;
    }
  follow(find_->trace.get(), find_->state, picks);
  return picks;
}

Answer Search::run(const Kept& core) {
  if (core.table->rows.count() == 0) {
    const bool better = core.size <= question_.capacity && core.loss < best_;
    return {better ? core.settled : std::vector<Pick>(), std::nullopt};
  }
  const Clock::time_point start = Clock::now();
  stack_.push_back({core.table, 0, {{core.size, core.loss, 0.0, -1, 0}}, 0.0, nullptr, 0});
  waiting_ = 1;
  while (!stack_.empty()) {
    if (since(start) > question_.seconds) {
      double bound = best_;
      for (const Layer& layer : stack_) bound = std::min(bound, layer.bound);
      return {picks(core), bound};
    }
    pauses_.look();
    Layer layer = std::move(stack_.back());
    stack_.pop_back();
    waiting_ -= layer.states.size();
    const std::int32_t left = layer.table->rows.count() - layer.depth;
    if (layer.rows_since_cut >= rows_between_cuts && left >= fewest_rows_to_cut)
      layer = cut(layer, question_.capacity, best_);
    if (layer.depth < layer.table->rows.count()) children(layer);
  }
  return {picks(core), std::nullopt};
}

}  // namespace

Answer search(const Kept& core, const Question& question) { return Search(question).run(core); }

}  // namespace raq::knapsack
