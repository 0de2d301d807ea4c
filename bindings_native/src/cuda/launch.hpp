// How kernels are queued on a stream.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/check.hpp"

namespace raq::cuda {

inline std::int64_t groups_of(std::int64_t count, std::int64_t per_group) {
  return (count + per_group - 1) / per_group;
}

// `groups` groups of so many threads.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), std::int64_t groups, int threads, cudaStream_t stream,
            Arguments... arguments) {
  if (groups == 0) return;
  cudaLaunchConfig_t shape{};
  shape.gridDim = dim3(static_cast<unsigned>(groups));
  shape.blockDim = dim3(static_cast<unsigned>(threads));
  shape.stream = stream;
  RAQ_CUDA_CHECK(cudaLaunchKernelEx(&shape, kernel, arguments...));
}

}  // namespace raq::cuda
