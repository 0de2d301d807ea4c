// Every format; quant_types.def lists the same names.
#pragma once

#include "formats/fp4.hpp"
#include "formats/iq1.hpp"
#include "formats/iq2.hpp"
#include "formats/iq3.hpp"
#include "formats/iq4.hpp"
#include "formats/plain.hpp"
#include "formats/q2_k.hpp"
#include "formats/q3_k.hpp"
#include "formats/q4_0.hpp"
#include "formats/q4_1.hpp"
#include "formats/q4_k.hpp"
#include "formats/q6_k.hpp"
#include "formats/q8_0.hpp"
#include "formats/ternary.hpp"

namespace raq::RAQ_LEVEL {

#define RAQ_QUANT_TYPE(name, id, weights_per_block, bytes_per_block) \
  static_assert(name::weights == weights_per_block && name::bytes == bytes_per_block);
#include "quant_types.def"
#undef RAQ_QUANT_TYPE

}  // namespace raq::RAQ_LEVEL
