// Every format; quant_types.def lists the same names.
#pragma once

#include "fp4.hpp"
#include "iq1.hpp"
#include "iq2.hpp"
#include "iq3.hpp"
#include "iq4.hpp"
#include "plain.hpp"
#include "q2_k.hpp"
#include "q3_k.hpp"
#include "q4_0.hpp"
#include "q4_1.hpp"
#include "q4_k.hpp"
#include "q6_k.hpp"
#include "q8_0.hpp"
#include "ternary.hpp"

namespace raq::RAQ_LEVEL {

#define RAQ_QUANT_TYPE(name, id, weights_per_block, bytes_per_block) \
  static_assert(name::weights == weights_per_block && name::bytes == bytes_per_block);
#include "../quant_types.def"
#undef RAQ_QUANT_TYPE

}  // namespace raq::RAQ_LEVEL
