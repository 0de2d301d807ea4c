// A failed CUDA call becomes an exception that names the call.
#pragma once

#include <cuda_runtime.h>

#include <new>
#include <stdexcept>
#include <string>

namespace raq::cuda {

inline std::string sentence(const char* call, cudaError_t code) {
  const std::string text = call;
  return "CUDA: " + text.substr(0, text.find('(')) + ": " + cudaGetErrorString(code);
}

struct CudaError : std::runtime_error {
  CudaError(const char* call, cudaError_t code) : std::runtime_error(sentence(call, code)) {}
};

struct OutOfMemory : std::bad_alloc {
  explicit OutOfMemory(const char* call) : text(sentence(call, cudaErrorMemoryAllocation)) {}
  const char* what() const noexcept override { return text.c_str(); }
  std::string text;
};

inline void check(cudaError_t code, const char* call) {
  if (code == cudaSuccess) return;
  cudaGetLastError();  // clear it: it is reported once, here
  if (code == cudaErrorMemoryAllocation) throw OutOfMemory(call);
  throw CudaError(call, code);
}

#define RAQ_CUDA_CHECK(call) ::raq::cuda::check((call), #call)

}  // namespace raq::cuda
