// The exact part: dynamic programming over the open rows, bounded by the linear relaxation of the rest.
//
// - Rows are taken one at a time. A state is a choice for the rows taken so far: its bytes and its loss, with
//   the rows left counted at their smallest size and their least loss. Of two states the one that is larger
//   and not better is dropped.
// - A state is kept as long as the relaxation of the rows left allows it to beat the best solution known. The
//   whole steps of that relaxation give a solution, so good solutions are found early.
// - From time to time the rows left are cut down: a cell stays if its reduced cost allows some state to use
//   it.
// - A layer that grows too large is split; its parts are searched one after the other, so that memory stays
//   bounded.
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
  double tolerance;  // solutions that are better by less are not searched for
  double seconds;
  std::size_t largest_layer;    // states above which a layer is split; results do not depend on it
  std::function<void()> pause;  // called about 50 times a second; ends the search by throwing
};

struct Answer {
  std::vector<Pick> picks;  // empty if nothing better was found
  // Nothing if the search was completed: no solution is better than the one found. Else no solution's loss is
  // below it.
  std::optional<double> bound;
};

Answer search(const Kept& core, const Question& question);

}  // namespace raq::knapsack
