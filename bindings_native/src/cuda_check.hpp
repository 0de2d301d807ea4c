// A failed CUDA call becomes an exception that names the call.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace raq::cuda {

struct CudaError : std::runtime_error {
  CudaError(const char* call, cudaError_t code)
      : std::runtime_error(std::string("CUDA: ") + call + ": " + cudaGetErrorString(code)), code(code) {}
  cudaError_t code;
};

inline void check(cudaError_t code, const char* call) {
  if (code != cudaSuccess) {
    cudaGetLastError();  // a sticky error is reported once, here
    throw CudaError(call, code);
  }
}

#define RAQ_CUDA_CHECK(call) ::raq::cuda::check((call), #call)

// Device memory with one owner.
template <class Value>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t count) { RAQ_CUDA_CHECK(cudaMalloc(&data_, count * sizeof(Value) + 1)); }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  Value* data() const { return data_; }

 private:
  Value* data_ = nullptr;
};

}  // namespace raq::cuda
