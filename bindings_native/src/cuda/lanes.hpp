// A lane: pinned memory, device memory and a stream, for one part of a tensor at a time. The stream keeps
// copy, kernel and copy in order; several lanes per device overlap, so that one computes while others copy.
#pragma once

#include <cstddef>

#include "cuda/check.hpp"

namespace raq::cuda {

// Memory of one owner that only grows: allocating and pinning are slow.
template <cudaError_t (*Allocate)(void**, std::size_t), cudaError_t (*Release)(void*)>
class Memory {
 public:
  Memory() = default;
  ~Memory() { Release(data_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  void reserve(std::size_t size, const char* call) {
    if (data_ != nullptr && size <= size_) return;
    release();
    check(Allocate(&data_, size > 0 ? size : 1), call);
    size_ = size;
  }
  void release() {
    Release(data_);
    data_ = nullptr;
    size_ = 0;
  }
  std::byte* data() const { return static_cast<std::byte*>(data_); }
  std::size_t size() const { return size_; }

 private:
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

inline cudaError_t allocate_on_device(void** data, std::size_t size) { return cudaMalloc(data, size); }
inline cudaError_t allocate_on_host(void** data, std::size_t size) { return cudaMallocHost(data, size); }

using DeviceMemory = Memory<allocate_on_device, cudaFree>;
using PinnedMemory = Memory<allocate_on_host, cudaFreeHost>;

struct Lane {
  Lane() { RAQ_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking)); }
  ~Lane() { cudaStreamDestroy(stream); }
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  void reserve(std::size_t in, std::size_t out, std::size_t scratch) {
    if (scratch > 0) device_scratch.reserve(scratch, "cudaMalloc");
    device_in.reserve(in, "cudaMalloc");
    device_out.reserve(out, "cudaMalloc");
    host_in.reserve(in, "cudaMallocHost");
    host_out.reserve(out, "cudaMallocHost");
  }

  cudaStream_t stream = nullptr;
  DeviceMemory device_in, device_out, device_scratch;
  PinnedMemory host_in, host_out;
};

}  // namespace raq::cuda
