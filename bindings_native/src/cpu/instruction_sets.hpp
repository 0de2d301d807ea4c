// Which copy of the kernels this processor runs.
#pragma once

#include "cpu/kernels.hpp"
#include "quantizer.hpp"

namespace raq {

// All throw std::invalid_argument if the build or the processor lacks the instruction set.
const Kernels& cpu_kernels(const QuantType& type, InstructionSet set);
const FactorKernels& factor_kernels(InstructionSet set);
const GroupKernels& group_kernels(InstructionSet set);

}  // namespace raq
