// The CUDA half of the C++ interface. No type of CUDA occurs in it; absent.cpp implements it in a build without
// CUDA.
#pragma once

#include "quantizer.hpp"

namespace raq::cuda {

struct DeviceInfo {
  int number;
  std::string name;
  int major, minor;  // compute capability
  std::int64_t memory_bytes;
  bool usable;  // the kernels can run there
};

bool built();
// Empty if there is no driver or no device; never throws.
std::vector<DeviceInfo> devices();
// Frees the memory that calls keep for the next one, on all devices and pinned on the host.
void release();

// As in quantizer.hpp, on the device of this number or on all usable ones (Device::all), which share the
// rows. Throw std::runtime_error without a usable device or when CUDA fails, std::bad_alloc when no device
// has the memory for one chunk of rows.
void quantize(const QuantType& type, const Rows& rows, Effort effort, int device, std::uint8_t* blocks);
void dequantize(const QuantType& type, const std::uint8_t* blocks, std::int64_t rows, std::int64_t row_length,
                int device, float* weights);
// As `quantize_with_feedback`, and as `quantize_on_both_sides` with a row factor (else null): then all rows are
// rounded on one device, which is another one for the next call.
void quantize_with_feedback(const QuantType& type, const Rows& rows, const float* factor,
                            const float* row_factor, Effort effort, int device, std::uint8_t* blocks);
std::vector<ErrorSums> measure(const std::vector<QuantType>& types, const Rows& rows, Effort effort,
                               int device);

}  // namespace raq::cuda
