// Threads over parts of a work, which must not depend on their order.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "quantizer.hpp"

namespace raq {

inline int threads_of(const Options& options) {
  return options.threads > 0 ? options.threads
                             : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

// Runs work(chunk) for every chunk. Of several exceptions the one of the first chunk is thrown again
// here, whichever thread is faster.
inline void for_each_chunk(std::int64_t count, int threads, const std::function<void(std::int64_t)>& work) {
  std::atomic<std::int64_t> next{0}, failed_chunk{count};
  std::exception_ptr failure;
  std::mutex guard;
  const auto run = [&] {
    for (std::int64_t chunk; (chunk = next.fetch_add(1)) < failed_chunk.load();) {
      try {
        work(chunk);
      } catch (...) {
        const std::lock_guard lock(guard);
        if (chunk < failed_chunk.load()) {
          failed_chunk = chunk;
          failure = std::current_exception();
        }
      }
    }
  };
  std::vector<std::thread> helpers;
  for (std::int64_t i = 1; i < std::min<std::int64_t>(threads, count); ++i) helpers.emplace_back(run);
  run();
  for (std::thread& helper : helpers) helper.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace raq
