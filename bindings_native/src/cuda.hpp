// The CUDA half of the C++ interface. It names no CUDA type; without a CUDA build, cuda_absent.cpp stands in.
#pragma once

#include "quantizer.hpp"

namespace raq::cuda {

bool built();
// Empty if there is no driver or no device; never throws.
std::vector<std::string> devices();

// As in quantizer.hpp. Throw std::runtime_error without a usable device.
void quantize(const QuantType& type, const Rows& rows, Effort effort, std::uint8_t* blocks);
void dequantize(const QuantType& type, const std::uint8_t* blocks, std::int64_t rows, std::int64_t row_length,
                float* weights);
std::vector<ErrorSums> measure(const std::vector<QuantType>& types, const Rows& rows, Effort effort);

}  // namespace raq::cuda
