// Places in a long computation at which it may be ended.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <utility>

namespace raq::knapsack {

// Calls a function about 50 times a second; what it throws ends the computation.
class Pauses {
 public:
  explicit Pauses(std::function<void()> pause) : pause_(std::move(pause)) {}

  // For innermost loops, such as the comparisons of a sort: a counter, and `look` every 2^14 calls.
  void step() {
    if ((++steps_ & 0x3fff) == 0) look();
  }

  // For steps of some milliseconds at most.
  void look() {
    if (Clock::now() - last_ < between) return;
    pause_();
    last_ = Clock::now();
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds between{20};

  std::function<void()> pause_;
  Clock::time_point last_ = Clock::now();
  std::uint32_t steps_ = 0;
};

}  // namespace raq::knapsack
