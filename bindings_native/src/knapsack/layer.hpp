// The states after some rows, and the choices that led to them.
#pragma once

#include <memory>
#include <vector>

#include "pauses.hpp"
#include "table.hpp"

namespace raq::knapsack {

struct State {
  std::int64_t size;
  double loss;
  double bound;          // no completion has a lower loss
  std::int32_t column;   // chosen for the row taken last
  std::uint32_t origin;  // the state of the layer before that this one extends
};

// The choices that led to the states of a layer: one row taken, or rows settled when the table was cut down.
// Shared by all layers that follow.
struct Trace {
  mutable std::shared_ptr<const Trace> before;  // taken by the destructor
  std::int32_t row = -1;                        // -1: none was taken, and states are the same as before
  std::vector<std::int32_t> columns;
  std::vector<std::uint32_t> origins;
  std::vector<Pick> settled;

  Trace() = default;
  Trace(Trace&&) = default;
  Trace& operator=(Trace&&) = default;
  ~Trace();  // without recursion, which thousands of rows would make deep
};

// Appends the picks of a state.
void follow(const Trace* trace, std::size_t state, std::vector<Pick>& picks);

// States by rising size. The rows of `table` from `depth` on are left.
struct Layer {
  std::shared_ptr<const Table> table;
  std::int32_t depth;
  std::vector<State> states;
  double bound;  // the least bound of the states
  std::shared_ptr<const Trace> trace;
  int rows_since_cut;
};

// The layer with only those cells of the rows left that some state may use to beat `best`.
Layer cut(const Layer& layer, std::int64_t capacity, double best);

// Keeps the states that no state of at most their size matches in loss, by rising size. On entry `states`
// consists of runs that each rise in size; `runs` are their ends.
void keep_undominated(std::vector<State>& states, std::vector<std::size_t> runs, Pauses& pauses);

}  // namespace raq::knapsack
