// The threads of a group, on one thread of the processor: each runs until it waits for the others.
#include "fibers.hpp"

#include <ucontext.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

thread_local dim3 blockIdx, threadIdx;

namespace emulated {
namespace {

constexpr std::size_t stack_bytes = 1 << 18;

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[stack_bytes]};
  unsigned thread = 0;
};

// A fiber runs one thread after the other; where a thread waits, another fiber goes on with the rest.
class Group {
 public:
  Group(std::vector<unsigned> order, const std::function<void()>& body)
      : order_(std::move(order)), body_(body) {}

  void run(std::mt19937_64& chance) {
    while (next_ < order_.size()) resume(fresh());
    while (!waiting_.empty()) {
      std::vector<Fiber*> released = std::exchange(waiting_, {});
      std::shuffle(released.begin(), released.end(), chance);
      for (Fiber* fiber : released) resume(*fiber);
    }
  }

  void wait() {
    Fiber& fiber = *running_;
    fiber.thread = threadIdx.x;
    waiting_.push_back(&fiber);
    swapcontext(&fiber.context, &home_);
  }

 private:
  static void enter();

  Fiber& fresh() {
    if (used_ == pool().size()) pool().push_back(std::make_unique<Fiber>());
    Fiber& fiber = *pool()[used_++];
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = stack_bytes;
    fiber.context.uc_link = &home_;
    makecontext(&fiber.context, enter, 0);
    return fiber;
  }

  void resume(Fiber& fiber) {
    running_ = &fiber;
    threadIdx.x = fiber.thread;
    swapcontext(&home_, &fiber.context);
  }

  static std::vector<std::unique_ptr<Fiber>>& pool() {
    static thread_local std::vector<std::unique_ptr<Fiber>> fibers;
    return fibers;
  }

  std::vector<unsigned> order_;
  const std::function<void()>& body_;
  std::size_t next_ = 0, used_ = 0;
  std::vector<Fiber*> waiting_;
  Fiber* running_ = nullptr;
  ucontext_t home_;
};

thread_local Group* group = nullptr;

void Group::enter() {
  while (group->next_ < group->order_.size()) {
    threadIdx.x = group->order_[group->next_++];
    group->body_();
  }
}

std::vector<unsigned> shuffled(unsigned count, std::mt19937_64& chance) {
  std::vector<unsigned> order(count);
  for (unsigned i = 0; i < count; ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), chance);
  return order;
}

}  // namespace

void run_grid(unsigned groups, unsigned threads, const std::function<void()>& body, std::mt19937_64& chance) {
  for (const unsigned number : shuffled(groups, chance)) {
    blockIdx.x = number;
    Group here(shuffled(threads, chance), body);
    group = &here;
    here.run(chance);
    group = nullptr;
  }
}

}  // namespace emulated

void __syncthreads() { emulated::group->wait(); }
