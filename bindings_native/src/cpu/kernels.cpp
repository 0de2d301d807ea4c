// Compiled once per instruction set (RAQ_LEVEL, RAQ_LANES and -march differ);
// instruction_sets.cpp chooses at run time.
//
// Rule: no function of the standard library. The linker keeps one copy of an inline function, and it could be
// the one compiled for a newer processor than this one.
#include "cpu/kernels.hpp"

#include "common/tiles.hpp"
#include "cpu/factor.hpp"
#include "cpu/feedback.hpp"
#include "cpu/groups.hpp"
#include "cpu/multiply.hpp"
#include "cpu/refinement.hpp"
#include "formats/all.hpp"

namespace raq::RAQ_LEVEL {
namespace {

constexpr std::int32_t infinity = 0x7f800000;  // its bits; those of NaN are larger

bool none_but_finite(const float* numbers, std::int64_t count) {
  std::int32_t found = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    std::int32_t bits;
    __builtin_memcpy(&bits, numbers + i, sizeof bits);
    found |= (bits & infinity) == infinity;
  }
  return found == 0;
}

std::int64_t first_non_finite(const float* weights, std::int64_t count) {
  if (none_but_finite(weights, count)) return all_finite;
  for (std::int64_t i = 0;; ++i)
    if (!__builtin_isfinite(weights[i])) return i;
}

bool any_non_finite(Int top) {
  std::int32_t found = 0;
  for (int i = 0; i < lanes; ++i) found |= lane(top, i) >= infinity;
  return found != 0;
}

// Adds what was found of each lane's block to the sums of its row. `first` is the number of the first block.
void add_lanes(const LaneErrors& found, std::int64_t first, int count, std::int64_t blocks_per_row,
               ErrorSums* sums_of_rows) {
  ErrorSums* sums = sums_of_rows + first / blocks_per_row;
  std::int64_t left = blocks_per_row - first % blocks_per_row;
  for (int i = 0; i < count; ++i, --left) {
    if (left == 0) {
      ++sums;
      left = blocks_per_row;
    }
    sums->add({found.weighted_squared_error[i], found.weighted_energy[i]});
  }
}

// Calls `use(tile, quantized blocks, first block, block count)` for every tile of the rows.
template <class Format, class Use>
std::int64_t for_each_tile(const Rows& rows, Effort effort, Use use) {
  const std::int64_t weights = rows.count * rows.length, blocks = weights / Format::weights;
  if constexpr (Format::weights == 1) {
    const std::int64_t bad = first_non_finite(rows.weights, weights);
    if (bad != all_finite) return bad;
  }
  Tile<Format::weights> tile;
  Bytes<Format::bytes> block;
  for (std::int64_t b = 0; b < blocks; b += lanes) {
    const int count = static_cast<int>(blocks - b < lanes ? blocks - b : lanes);
    tile.load(rows, b, count);
    if constexpr (Format::weights > 1)
      if (any_non_finite(tile.top))
        return b * Format::weights +
               first_non_finite(rows.weights + b * Format::weights, count * Format::weights);
    Format::quantize(tile.weights, tile.importance, tile.unit, effort, block);
    use(tile, block, b, count);
  }
  return all_finite;
}

template <class Format>
std::int64_t quantize(Rows rows, Effort effort, std::uint8_t* out) {
  if constexpr (Format::weights == 1) rows.importance = nullptr;  // nothing to choose, so do not load it
  return for_each_tile<Format>(rows, effort,
                               [&](const auto&, const auto& block, std::int64_t first, int count) {
                                 store_blocks(block, count, out + first * Format::bytes);
                               });
}

template <class Format>
std::int64_t measure(Rows rows, Effort effort, ErrorSums* sums_of_rows) {
  return for_each_tile<Format>(
      rows, effort, [&](const auto& tile, const auto& block, std::int64_t first, int count) {
        Float restored[Format::weights];
        Format::dequantize(block, restored);
        add_lanes(errors_of(tile, restored), first, count, rows.length / Format::weights, sums_of_rows);
      });
}

template <class Format>
void dequantize(const std::uint8_t* blocks, std::int64_t block_count, float* weights) {
  constexpr int K = Format::weights;
  Bytes<Format::bytes> block;
  Float restored[K];
  for (std::int64_t b = 0; b < block_count; b += lanes) {
    const int count = static_cast<int>(block_count - b < lanes ? block_count - b : lanes);
    load_blocks(block, count, blocks + b * Format::bytes);
    Format::dequantize(block, restored);
    turn_back<K>(restored, count, weights + b * K);
  }
}

template <class Format>
std::int64_t quantize_with_feedback(Rows rows, const float* factor, Effort effort, float* scratch,
                                    std::uint8_t* blocks) {
  const std::int64_t bad = first_non_finite(rows.weights, rows.count * rows.length);
  if (bad == all_finite) Feedback<Format>(rows, factor, effort, scratch, blocks).run();
  return bad;
}

template <class Format>
void round_span(const GroupSpan& of) {
  Span<Format, group_tiles>{reinterpret_cast<Float*>(of.weights),
                            reinterpret_cast<Float*>(of.errors),
                            reinterpret_cast<Float*>(of.restored),
                            of.importance,
                            of.corner,
                            of.rows,
                            of.blocks,
                            of.row_bytes,
                            of.columns,
                            of.effort}
      .round();
}

template <class Format>
void refine(const RefinedRows& rows, std::uint8_t* blocks) {
  Refinement<Format>(rows, blocks).run();
}

template <class Format>
constexpr Kernels kernels_of() {
  Kernels kernels{quantize<Format>, measure<Format>, dequantize<Format>, nullptr, nullptr, nullptr};
  if constexpr (CodePerWeight<Format> || CodePerGroup<Format>) {
    kernels.quantize_with_feedback = quantize_with_feedback<Format>;
    kernels.round_span = round_span<Format>;
    kernels.refine = refine<Format>;
  }
  return kernels;
}

}  // namespace
}  // namespace raq::RAQ_LEVEL

#define RAQ_JOIN_(a, b) a##b
#define RAQ_JOIN(a, b) RAQ_JOIN_(a, b)

const raq::Kernels* raq::RAQ_JOIN(kernels_, RAQ_LEVEL)() {
  static constexpr Kernels table[] = {
#define RAQ_QUANT_TYPE(name, id, weights_per_block, bytes_per_block) RAQ_LEVEL::kernels_of<RAQ_LEVEL::name>(),
#include "quant_types.def"
#undef RAQ_QUANT_TYPE
  };
  return table;
}

const raq::FactorKernels& raq::RAQ_JOIN(factor_kernels_, RAQ_LEVEL)() {
  using namespace RAQ_LEVEL::factoring;
  static constexpr FactorKernels steps{finish_rows, update_rows, invert_rows,
                                       RAQ_LEVEL::multiplying::multiply};
  return steps;
}

const raq::GroupKernels& raq::RAQ_JOIN(group_kernels_, RAQ_LEVEL)() {
  using namespace RAQ_LEVEL::grouping;
  static constexpr GroupKernels steps{RAQ_LEVEL::none_but_finite,
                                      load,
                                      pack,
                                      RAQ_LEVEL::pack_corner,
                                      add<false>,
                                      add<true>,
                                      substitute,
                                      change};
  return steps;
}
