// The Python module: array shapes and types, names and docstrings. No arithmetic.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>

#include "cuda/cuda.hpp"
#include "both_sides.hpp"
#include "quantizer.hpp"
#include "refine.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Weights = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Importance = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Blocks = nb::ndarray<const std::uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using NewWeights = nb::ndarray<nb::numpy, float, nb::ndim<2>, nb::c_contig>;
using NewSums = nb::ndarray<nb::numpy, double, nb::ndim<3>, nb::c_contig>;
using NewBlocks = nb::ndarray<nb::numpy, std::uint8_t, nb::ndim<2>, nb::c_contig>;

// An array that owns the data.
template <class Array, class Value>
Array new_array(std::unique_ptr<Value[]> data, std::initializer_list<std::size_t> shape) {
  Value* pointer = data.release();
  nb::capsule owner(pointer, [](void* p) noexcept { delete[] static_cast<Value*>(p); });
  return Array(pointer, shape, owner);
}

raq::Rows rows_of(const Weights& weights, const std::optional<Importance>& importance) {
  const raq::Rows rows{weights.data(), importance ? importance->data() : nullptr,
                       static_cast<std::int64_t>(weights.shape(0)),
                       static_cast<std::int64_t>(weights.shape(1))};
  if (!importance) return rows;
  if (importance->shape(0) != weights.shape(1))
    throw std::invalid_argument("importance has " + std::to_string(importance->shape(0)) +
                                " values for a row length of " + std::to_string(rows.length));
  for (std::int64_t i = 0; i < rows.length; ++i)
    if (!(rows.importance[i] >= 0.0f && std::isfinite(rows.importance[i])))
      throw std::invalid_argument("importance [" + std::to_string(i) + "] is negative, NaN or infinite");
  return rows;
}

raq::Options options_of(int threads, const std::string& effort, const std::string& instruction_set) {
  raq::Options options;
  if (threads < 0) throw std::invalid_argument("threads is negative");
  options.threads = threads;
  if (effort != "fast" && effort != "best")
    throw std::invalid_argument("unknown effort '" + effort + "': it is 'fast' or 'best'");
  options.effort = effort == "best" ? raq::Effort::best : raq::Effort::fast;
  options.instruction_set = raq::find_instruction_set(instruction_set);
  return options;
}

NewBlocks quantize(const std::string& quant_type, const Weights& weights,
                   const std::optional<Importance>& importance, int threads, const std::string& effort,
                   const std::string& device, const std::string& instruction_set) {
  const raq::QuantType& type = raq::find_quant_type(quant_type);
  const raq::Rows rows = rows_of(weights, importance);
  const raq::Options options = options_of(threads, effort, instruction_set);
  const raq::Device where = raq::find_device(device);
  const std::int64_t row_bytes = type.row_bytes(rows.length);
  std::unique_ptr<std::uint8_t[]> blocks(new std::uint8_t[rows.count * row_bytes]);
  {
    const nb::gil_scoped_release unlocked;
    if (where.cuda)
      raq::cuda::quantize(type, rows, options.effort, where.number, blocks.get());
    else
      raq::quantize(type, rows, options, blocks.get());
  }
  return new_array<NewBlocks>(std::move(blocks), {weights.shape(0), static_cast<std::size_t>(row_bytes)});
}

// Throws std::invalid_argument if a factor is not of a matrix of `size` rows and columns.
void require_square(const Weights& factor, const char* name, std::size_t size, const char* what) {
  if (factor.shape(0) != size || factor.shape(1) != size)
    throw std::invalid_argument("a " + std::string(name) + " of " + std::to_string(factor.shape(0)) + " x " +
                                std::to_string(factor.shape(1)) + " for " + what + " of " +
                                std::to_string(size));
}

NewBlocks quantize_with_feedback(const std::string& quant_type, const Weights& weights, const Weights& factor,
                                 const std::optional<Weights>& row_factor, int threads,
                                 const std::string& effort, const std::string& device,
                                 const std::string& instruction_set) {
  const raq::QuantType& type = raq::find_quant_type(quant_type);
  const raq::Rows rows = rows_of(weights, std::nullopt);
  const raq::Options options = options_of(threads, effort, instruction_set);
  const raq::Device where = raq::find_device(device);
  const std::int64_t row_bytes = type.row_bytes(rows.length);
  require_square(factor, "factor", weights.shape(1), "a row length");
  if (row_factor) require_square(*row_factor, "factor", weights.shape(0), "a number of rows");
  std::unique_ptr<std::uint8_t[]> blocks(new std::uint8_t[rows.count * row_bytes]);
  {
    const nb::gil_scoped_release unlocked;
    if (where.cuda)
      raq::cuda::quantize_with_feedback(type, rows, factor.data(), row_factor ? row_factor->data() : nullptr,
                                        options.effort, where.number, blocks.get());
    else if (row_factor)
      raq::quantize_on_both_sides(type, rows, factor.data(), row_factor->data(), options, blocks.get());
    else
      raq::quantize_with_feedback(type, rows, factor.data(), options, blocks.get());
  }
  return new_array<NewBlocks>(std::move(blocks), {weights.shape(0), static_cast<std::size_t>(row_bytes)});
}

NewBlocks refine_codes(const std::string& quant_type, const Weights& weights, const Blocks& blocks,
                       const Weights& gram, const std::optional<Weights>& row_gram, int sweeps, int threads,
                       const std::string& instruction_set) {
  const raq::QuantType& type = raq::find_quant_type(quant_type);
  const raq::Rows rows = rows_of(weights, std::nullopt);
  const raq::Options options = options_of(threads, "fast", instruction_set);
  const std::size_t row_bytes = static_cast<std::size_t>(type.row_bytes(rows.length));
  if (blocks.shape(0) != weights.shape(0) || blocks.shape(1) != row_bytes)
    throw std::invalid_argument(std::to_string(blocks.shape(0)) + " rows of " +
                                std::to_string(blocks.shape(1)) + " bytes are not these weights in " +
                                type.name);
  require_square(gram, "Gram matrix", weights.shape(1), "a row length");
  if (row_gram) require_square(*row_gram, "Gram matrix", weights.shape(0), "a number of rows");
  std::unique_ptr<std::uint8_t[]> refined(new std::uint8_t[blocks.size()]);
  std::copy_n(blocks.data(), blocks.size(), refined.get());
  {
    const nb::gil_scoped_release unlocked;
    raq::refine_codes(type, rows, gram.data(), row_gram ? row_gram->data() : nullptr, sweeps, options,
                      refined.get());
  }
  return new_array<NewBlocks>(std::move(refined), {blocks.shape(0), row_bytes});
}

NewWeights feedback_factor(const Weights& gram, double damping, int threads,
                           const std::string& instruction_set) {
  const raq::Options options = options_of(threads, "fast", instruction_set);
  if (gram.shape(0) != gram.shape(1))
    throw std::invalid_argument("a matrix of " + std::to_string(gram.shape(0)) + " x " +
                                std::to_string(gram.shape(1)) + " is not square");
  const std::int64_t columns = static_cast<std::int64_t>(gram.shape(0));
  std::unique_ptr<float[]> factor(new float[columns * columns]);
  {
    const nb::gil_scoped_release unlocked;
    raq::feedback_factor(gram.data(), columns, damping, options, factor.get());
  }
  return new_array<NewWeights>(std::move(factor), {gram.shape(0), gram.shape(1)});
}

NewWeights dequantize(const std::string& quant_type, const Blocks& blocks, std::int64_t row_length,
                      int threads, const std::string& device, const std::string& instruction_set) {
  const raq::QuantType& type = raq::find_quant_type(quant_type);
  const raq::Options options = options_of(threads, "fast", instruction_set);
  const raq::Device where = raq::find_device(device);
  if (row_length < 0) throw std::invalid_argument("row length is negative");
  const std::int64_t count = static_cast<std::int64_t>(blocks.shape(0)),
                     row_bytes = type.row_bytes(row_length);
  if (static_cast<std::int64_t>(blocks.shape(1)) != row_bytes)
    throw std::invalid_argument("rows of " + std::to_string(blocks.shape(1)) + " bytes, but " +
                                std::to_string(row_length) + " weights of " + type.name + " take " +
                                std::to_string(row_bytes));
  std::unique_ptr<float[]> weights(new float[count * row_length]);
  {
    const nb::gil_scoped_release unlocked;
    if (where.cuda)
      raq::cuda::dequantize(type, blocks.data(), count, row_length, where.number, weights.get());
    else
      raq::dequantize(type, blocks.data(), count, row_length, options, weights.get());
  }
  return new_array<NewWeights>(std::move(weights), {blocks.shape(0), static_cast<std::size_t>(row_length)});
}

std::vector<raq::ErrorSums> measure_errors(const std::vector<std::string>& quant_types,
                                           const Weights& weights,
                                           const std::optional<Importance>& importance, int threads,
                                           const std::string& effort, const std::string& device,
                                           const std::string& instruction_set) {
  std::vector<raq::QuantType> types;
  for (const std::string& name : quant_types) types.push_back(raq::find_quant_type(name));
  const raq::Rows rows = rows_of(weights, importance);
  const raq::Options options = options_of(threads, effort, instruction_set);
  const raq::Device where = raq::find_device(device);
  const nb::gil_scoped_release unlocked;
  return where.cuda ? raq::cuda::measure(types, rows, options.effort, where.number)
                    : raq::measure(types, rows, options);
}

NewSums measure_rows(const std::vector<std::string>& quant_types, const Weights& weights,
                     const std::optional<Importance>& importance, int threads, const std::string& effort,
                     const std::string& instruction_set) {
  std::vector<raq::QuantType> types;
  for (const std::string& name : quant_types) types.push_back(raq::find_quant_type(name));
  const raq::Rows rows = rows_of(weights, importance);
  const raq::Options options = options_of(threads, effort, instruction_set);
  std::unique_ptr<double[]> data;
  {
    const nb::gil_scoped_release unlocked;
    const std::vector<raq::ErrorSums> sums = raq::measure_rows(types, rows, options);
    data.reset(new double[2 * sums.size()]);
    for (std::size_t i = 0; i < sums.size(); ++i) {
      data[2 * i] = sums[i].weighted_squared_error;
      data[2 * i + 1] = sums[i].weighted_energy;
    }
  }
  return new_array<NewSums>(std::move(data), {types.size(), weights.shape(0), 2});
}

raq::ErrorSums measure_error(const std::string& quant_type, const Weights& weights,
                             const std::optional<Importance>& importance, int threads,
                             const std::string& effort, const std::string& device,
                             const std::string& instruction_set) {
  return measure_errors({quant_type}, weights, importance, threads, effort, device, instruction_set).front();
}

// ---- docstrings ----

constexpr char error_sums_text[] =
    R"(Sums over the weights w of a tensor, with r the restored weight and h the importance of its column.

h is 1 where no importance was given.)";

constexpr char quantize_text[] = R"(Quantize the weights: the blocks of each row, uint8[rows, row bytes].

Importance is per column, not negative, in any unit; without it all columns count alike. The search
minimizes the sum of h (w - r)^2, with h the importance and r the restored weight. `threads` 0 means
one per processor; `effort` is 'fast' or 'best' (wider search, same format); `device` is 'cpu', 'cuda'
(all usable devices share the rows) or 'cuda:N'. Neither threads nor device nor `instruction_set`
('automatic', 'baseline', 'v3', 'v4') changes a byte.

Raises ValueError for an unknown name, a row length that the block does not divide, importance of
another length or with a negative or non-finite value, and a NaN or infinite weight (its position is
named); RuntimeError if CUDA is asked for and absent, or fails; MemoryError if the device has no room
for a quarter of a MiB of weights.)";

constexpr char quantize_with_feedback_text[] =
    R"(Quantize the weights so that later columns take back the errors of earlier ones: uint8[rows, row bytes].

For inputs x with H the mean of x xᵀ and H⁻¹ = Uᵀ U, `factor` is U: float32[row length, row length],
upper triangular with a positive diagonal. Columns are rounded from left to right. The error of column j,
e = (w - r) / U_jj with w the weight as it has become and r the restored one, is subtracted as e U_jk from
the weights of the columns k after it. Scales of a block are searched on its weights as they have become,
with importance 1 / U_jj². Where inputs are correlated, the squared error of the outputs, tr(ΔW H ΔWᵀ), is
far below that of `quantize`; blocks have the same format and size.

With `row_factor`, float32[rows, rows], the factor of the mean of g gᵀ over the gradients g at the outputs (in the
order of the rows), errors are fed forward into later rows too, from each group of 16: tr(G ΔW H ΔWᵀ) is what becomes
small.

Codebook types choose the vector of 4 or 8 columns at once and then feed their errors forward. `threads`,
`effort`, `device` and `instruction_set` are as in `quantize`: all but the effort change no byte. With `row_factor`
all rows are rounded on one CUDA device, another one for the next call. Raises as `quantize` does, MemoryError if
that device has no room for weights, errors and both factors; ValueError for F32, F16 and BF16, which store every
weight by itself, and for a factor of another shape, with a NaN or infinite number, with one below the diagonal that
is not zero, or with a diagonal that is not positive.)";

constexpr char refine_codes_text[] =
    R"(Choose the codes of blocks again so that tr(M E H Eᵀ) becomes lower: uint8[rows, row bytes].

`blocks` are those of the weights in the type, and E is what they restore less the weights. `gram` is H, the mean of
x xᵀ over the inputs x, float32[row length, row length]; `row_gram` is M, that of g gᵀ over the gradients g at the
outputs, float32[rows, rows], or the identity. Both are read whole: they must be symmetric, and should have the damping
of the factors. Scales stay; one after the other each code (of codebook types, each vector with its signs)
becomes the best one for all others as they are, `sweeps` times over. The sum never rises but by float32 rounding.
Neither threads nor the instruction set changes a byte. Raises ValueError as `quantize_with_feedback` does, for blocks
of another shape, and for a diagonal that is not positive.)";

constexpr char feedback_factor_text[] =
    R"(The factor of a Gram matrix for `quantize_with_feedback`: float32[columns, columns], upper triangular.

With H = gram + damping * mean(diagonal of gram) * I (where that mean is 0, I is added instead), the factor
U has H⁻¹ = Uᵀ U. Only the upper triangle of `gram` is read. Computed in float64, by products in one order:
neither threads nor the instruction set changes a bit. Takes 2/3 columns³ operations and two float64
matrices. Raises ValueError for a matrix that is not square, has a NaN or infinite number, or is not positive
definite with this damping, for a damping that is negative or not finite, and for a factor beyond the range
of float32.)";

constexpr char dequantize_text[] = R"(Restore the weights of each row, float32[rows, row_length].

Any bytes give some floats. Raises ValueError if the bytes of a row are not those of row_length weights.)";

constexpr char measure_error_text[] =
    R"(The errors of `quantize` followed by `dequantize`, keeping neither result.

Raises as `quantize` does.)";

constexpr char measure_rows_text[] =
    R"(The sums of h (w - r)^2 and of h w^2 of each row, float64[types, rows, 2], as `ErrorSums` has them.

One pass over the weights, on the processor. Raises as `quantize` does.)";

constexpr char cuda_release_text[] = R"(Free the memory that calls with a CUDA device keep for the next call.

It is some 200 MiB on each device, and as much pinned on the host.)";

// ---- the module ----

void bind_records(nb::module_& module) {
  nb::class_<raq::QuantType>(module, "QuantType", "A ggml block format.")
      .def_ro("name", &raq::QuantType::name, "ggml's name in capitals: Q4_K.")
      .def_ro("ggml_id", &raq::QuantType::ggml_id)
      .def_ro("weights_per_block", &raq::QuantType::weights_per_block)
      .def_ro("bytes_per_block", &raq::QuantType::bytes_per_block)
      .def("__repr__",
           [](const raq::QuantType& type) { return "QuantType(" + std::string(type.name) + ")"; });

  nb::class_<raq::cuda::DeviceInfo>(module, "CudaDevice", "A CUDA device of this machine.")
      .def_ro("number", &raq::cuda::DeviceInfo::number, "N of device='cuda:N'.")
      .def_ro("name", &raq::cuda::DeviceInfo::name)
      .def_prop_ro(
          "compute_capability",
          [](const raq::cuda::DeviceInfo& device) { return std::pair(device.major, device.minor); },
          "(9, 0) for 9.0.")
      .def_ro("memory_bytes", &raq::cuda::DeviceInfo::memory_bytes, "All of its memory.")
      .def_ro("usable", &raq::cuda::DeviceInfo::usable,
              "Whether the kernels run on it: compute capability 7.5 or more.")
      .def("__repr__", [](const raq::cuda::DeviceInfo& device) {
        return "CudaDevice(" + std::to_string(device.number) + ", " + device.name + ")";
      });

  nb::class_<raq::ErrorSums>(module, "ErrorSums", error_sums_text)
      .def_ro("weighted_squared_error", &raq::ErrorSums::weighted_squared_error, "Sum of h (w - r)^2.")
      .def_ro("weighted_energy", &raq::ErrorSums::weighted_energy, "Sum of h w^2.");
}

}  // namespace

NB_MODULE(_raq_native, module) {
  module.doc() = "Quantizes, dequantizes and measures arrays in the block formats of GGUF.";
  bind_records(module);
  nb::list types;
  for (const raq::QuantType& type : raq::quant_types()) types.append(nb::cast(type));
  module.attr("QUANT_TYPES") = nb::tuple(types);
  module.attr("cuda_built") = raq::cuda::built();

  module.def("quantize", &quantize, "quant_type"_a, "weights"_a.noconvert(),
             "importance"_a.noconvert() = nb::none(), nb::kw_only(), "threads"_a = 0, "effort"_a = "fast",
             "device"_a = "cpu", "instruction_set"_a = "automatic", quantize_text);
  module.def("quantize_with_feedback", &quantize_with_feedback, "quant_type"_a, "weights"_a.noconvert(),
             "factor"_a.noconvert(), "row_factor"_a.noconvert() = nb::none(), nb::kw_only(), "threads"_a = 0,
             "effort"_a = "fast", "device"_a = "cpu", "instruction_set"_a = "automatic",
             quantize_with_feedback_text);
  module.def("refine_codes", &refine_codes, "quant_type"_a, "weights"_a.noconvert(), "blocks"_a.noconvert(),
             "gram"_a.noconvert(), "row_gram"_a.noconvert() = nb::none(), nb::kw_only(), "sweeps"_a = 2,
             "threads"_a = 0, "instruction_set"_a = "automatic", refine_codes_text);
  module.def("feedback_factor", &feedback_factor, "gram"_a.noconvert(), "damping"_a, nb::kw_only(),
             "threads"_a = 0, "instruction_set"_a = "automatic", feedback_factor_text);
  module.def("dequantize", &dequantize, "quant_type"_a, "blocks"_a.noconvert(), "row_length"_a, nb::kw_only(),
             "threads"_a = 0, "device"_a = "cpu", "instruction_set"_a = "automatic", dequantize_text);
  module.def("measure_error", &measure_error, "quant_type"_a, "weights"_a.noconvert(),
             "importance"_a.noconvert() = nb::none(), nb::kw_only(), "threads"_a = 0, "effort"_a = "fast",
             "device"_a = "cpu", "instruction_set"_a = "automatic", measure_error_text);
  module.def("measure_errors", &measure_errors, "quant_types"_a, "weights"_a.noconvert(),
             "importance"_a.noconvert() = nb::none(), nb::kw_only(), "threads"_a = 0, "effort"_a = "fast",
             "device"_a = "cpu", "instruction_set"_a = "automatic",
             "`measure_error` for several quant types in one pass over the weights.");
  module.def("measure_rows", &measure_rows, "quant_types"_a, "weights"_a.noconvert(),
             "importance"_a.noconvert() = nb::none(), nb::kw_only(), "threads"_a = 0, "effort"_a = "fast",
             "instruction_set"_a = "automatic", measure_rows_text);
  module.def("instruction_sets", &raq::instruction_set_names,
             "Names of the instruction sets that this build has and this processor runs, lowest first.");
  module.def("cuda_devices", &raq::cuda::devices,
             "The CUDA devices; empty without a driver, a device or a CUDA build.");
  module.def("cuda_release", &raq::cuda::release, cuda_release_text);
}
