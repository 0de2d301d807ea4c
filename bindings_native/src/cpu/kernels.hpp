// The formats as plain functions over whole rows, one set per instruction set of the processor.
//
// Rules: single-threaded; rows are complete, so their blocks follow each other without gaps; nothing is
// checked here but that weights are finite.
#pragma once

#include "effort.hpp"
#include "rows.hpp"

namespace raq {

constexpr std::int64_t all_finite = -1;

// Memory that `quantize_with_feedback` works in, aligned to 64 bytes: for each of the rows, rounded up to whole
// `row_step`s, span + columns floats; and corner + span * near floats beside them.
namespace feedback {
constexpr int row_step = 32;
constexpr int span = 256;  // columns whose errors are kept until all later columns get them
constexpr int near = 32;   // columns that get them at once
constexpr int corner =
    span * span;  // floats of the factor between the columns of a span, as pack_corner orders it
}  // namespace feedback

// Rows that are worked on together where they depend on each other, and the columns of a strip: see groups.hpp.
namespace groups {
constexpr int rows = 16, strip = 8;
}

// Sizes of matrices that are factored, see factor.hpp: their rows and columns are multiples of `step`.
namespace factor {
constexpr int step = 16;
constexpr int panel = 64;  // rows whose products are subtracted together
}  // namespace factor

// A product of matrices: out = a b, row after row.
struct Product {
  const float *a, *b;
  float* out;
  std::int64_t rows, depth, columns;
};
namespace multiply {
constexpr int column_step = 32;  // columns come in multiples of this
}
// Columns `from` to `to` of a product, whole `column_step`s.
using MultiplyKernel = void (*)(const Product& product, std::int64_t from, std::int64_t to);

// A span of columns of a group of rows that is rounded. `weights`, which are changed, `errors` and `restored`, which
// become what the blocks leave and say, are as groups.hpp has them; `blocks` are `row_bytes` apart.
struct GroupSpan {
  float *weights, *errors, *restored;
  const float* importance;
  float* corner;  // as pack_corner orders it
  std::int64_t rows;
  int columns;
  Effort effort;
  std::uint8_t* blocks;
  std::int64_t row_bytes;
};

// A group of rows whose codes are chosen again (refinement.hpp). `gradient`, of M E H, and `values`, what the blocks say,
// are as groups.hpp has them, and are changed.
struct RefinedRows {
  const float *gram, *diagonal;  // H and its diagonal
  const float* of_rows;          // M between these rows; 1 on the diagonal where none is
  float *gradient, *values;
  std::int64_t count, length;
};

// What groups of rows are worked on with, whatever their format: groups.hpp. All memory of groups and of strips is
// aligned to 64 bytes; strips of a matrix are `between` rows long. Columns come in multiples of 32.
struct GroupKernels {
  bool (*all_finite)(const float* numbers, std::int64_t count);
  void (*load)(const float* from, std::int64_t count, std::int64_t stride, std::int64_t columns,
               float* group);
  void (*pack)(const float* from, std::int64_t stride, std::int64_t depth, std::int64_t columns,
               float* strips);
  void (*pack_corner)(const float* factor, std::int64_t length, std::int64_t first, int count, float* corner);
  void (*add)(float* sums, std::int64_t columns, const float* of_rows, std::int64_t depth,
              const float* strips, std::int64_t between);
  void (*subtract)(float* sums, std::int64_t columns, const float* of_rows, std::int64_t depth,
                   const float* strips, std::int64_t between);
  void (*substitute)(const float* target, const float* restored, std::int64_t columns, const float* factor,
                     std::int64_t stride, float* strips, std::int64_t between);
  void (*change)(const float* now, float* values, std::int64_t count, std::int64_t length, const float* gram,
                 float* strips, std::int64_t between, std::int32_t* places, float* changes);
};

// The steps of factoring a matrix of `size` rows: finish the rows of a panel, subtract their products from the
// rows after it, and invert a panel's rows of the result.
struct FactorKernels {
  bool (*finish_rows)(double* w, std::int64_t size, std::int64_t first, std::int64_t last);
  void (*update_rows)(double* w, std::int64_t size, std::int64_t first, std::int64_t last, std::int64_t from,
                      std::int64_t to);
  void (*invert_rows)(const double* w, double* x, std::int64_t size, std::int64_t from, std::int64_t to);
  MultiplyKernel multiply;
};

struct Kernels {
  // Both return the position of the first non-finite weight in the rows, or all_finite. If there is such a
  // weight, what they wrote must not be used. `measure` adds to the sums of each row.
  std::int64_t (*quantize)(Rows rows, Effort effort, std::uint8_t* blocks);
  std::int64_t (*measure)(Rows rows, Effort effort, ErrorSums* sums_of_rows);
  void (*dequantize)(const std::uint8_t* blocks, std::int64_t block_count, float* weights);
  // Null for formats that store every weight by itself. Returns as `quantize` does. `factor` is U, see
  // feedback.hpp; the importance of the rows is 1 / U_jj^2.
  std::int64_t (*quantize_with_feedback)(Rows rows, const float* factor, Effort effort, float* scratch,
                                         std::uint8_t* blocks);
  // Null for the same formats.
  void (*round_span)(const GroupSpan& span);
  void (*refine)(const RefinedRows& rows, std::uint8_t* blocks);
};

// Tables in the order of quant_types.def. Each comes from its own copy of kernels.cpp.
const Kernels* kernels_baseline();
const FactorKernels& factor_kernels_baseline();
const GroupKernels& group_kernels_baseline();
#if defined(RAQ_X86)
const Kernels* kernels_v3();
const Kernels* kernels_v4();
const FactorKernels& factor_kernels_v3();
const FactorKernels& factor_kernels_v4();
const GroupKernels& group_kernels_v3();
const GroupKernels& group_kernels_v4();
#endif

}  // namespace raq
