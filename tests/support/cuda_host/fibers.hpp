#pragma once

#include <cuda_runtime.h>

#include <functional>
#include <random>

namespace emulated {

// Calls `body` once for every thread of every group, groups and threads in random order, with blockIdx and
// threadIdx set.
void run_grid(unsigned groups, unsigned threads, const std::function<void()>& body, std::mt19937_64& chance);

}  // namespace emulated
