// The exact part: dynamic programming over the open rows, bounded by the linear relaxation of what is left.
//
// - Rows are taken one at a time. A state is a choice for the rows taken so far: its bytes and its loss, the
// rows left
//   counted at their smallest and at their best. Of two states the one that is larger and not better is
//   dropped.
// - A state lives as long as the relaxation of the rows left says that it may still beat the best solution
// known. Its
//   whole steps give a solution, so that good solutions are met early.
// - Now and then the rows left are cut down: a cell stays if some living state may use it, judged by its
// reduced cost.
// - A layer that grows too large is split; its parts are searched one after the other, so that memory stays
// bounded.
//
// Source: Pisinger, A minimal algorithm for the multiple-choice knapsack problem, EJOR 83 (1995), for cores
// and for bounding states; the bound there is a line, here the whole relaxation.
#pragma once

#include <functional>
#include <optional>

#include "table.hpp"

namespace raq::knapsack {

struct Question {
  std::int64_t capacity;
  double best;       // the loss to beat
  double tolerance;  // solutions better by less are not looked for
  double seconds;
  std::size_t largest_layer;    // states above which a layer is split; results do not depend on it
  std::function<void()> pause;  // called several times a second; may throw
};

struct Answer {
  std::vector<Pick> picks;  // empty where nothing better was found
  std::optional<double>
      bound;  // nothing when the search is done: then there is nothing better than what was found
};

Answer search(const Kept& core, const Question& question);

}  // namespace raq::knapsack
