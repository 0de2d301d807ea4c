// cuda.hpp in a build without CUDA: no devices, and every call is refused.
#include "cuda/cuda.hpp"

namespace raq::cuda {
namespace {

[[noreturn]] void refuse() {
  throw std::runtime_error(
      "this build of raq has no CUDA kernels: build it with a CUDA compiler, or use device='cpu'");
}

}  // namespace

bool built() { return false; }

std::vector<DeviceInfo> devices() { return {}; }

void release() {}

void quantize(const QuantType&, const Rows&, Effort, int, std::uint8_t*) { refuse(); }

void dequantize(const QuantType&, const std::uint8_t*, std::int64_t, std::int64_t, int, float*) { refuse(); }

void quantize_with_feedback(const QuantType&, const Rows&, const float*, const float*, Effort, int,
                            std::uint8_t*) {
  refuse();
}

std::vector<ErrorSums> measure(const std::vector<QuantType>&, const Rows&, Effort, int) { refuse(); }

}  // namespace raq::cuda
