// The C++ interface: quantize, dequantize and measure whole tensors. No type of CUDA or Python occurs in it.
//
// A tensor is `count` rows of `length` weights, row after row. Rows are independent of each other, and a
// result depends neither on the number of threads nor on the instruction set nor on the device.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "effort.hpp"
#include "rows.hpp"

namespace raq {

struct QuantType {
  const char* name;  // ggml's, in capitals: Q4_K
  int ggml_id;
  std::int64_t weights_per_block;
  std::int64_t bytes_per_block;
  int index;  // place in quant_types.def

  // Throws std::invalid_argument if the blocks do not divide the row.
  std::int64_t row_bytes(std::int64_t row_length) const;
};

const std::vector<QuantType>& quant_types();
// Throws std::invalid_argument for a name that is not in the list.
const QuantType& find_quant_type(const std::string& name);

enum class InstructionSet { automatic, baseline, v3, v4 };

// The instruction sets that this build has kernels for and this processor runs, lowest first.
std::vector<InstructionSet> instruction_sets();
std::vector<std::string> instruction_set_names();
// Throws std::invalid_argument for an unknown name.
InstructionSet find_instruction_set(const std::string& name);

struct Options {
  Effort effort = Effort::fast;
  int threads = 0;  // 0: as many as the machine has
  InstructionSet instruction_set = InstructionSet::automatic;
};

// The processor, or a CUDA device by its number, or all of them together.
struct Device {
  static constexpr int all = -1;
  bool cuda = false;
  int number = all;
};
// 'cpu', 'cuda' or 'cuda:N'. Throws std::invalid_argument for another name.
Device find_device(const std::string& name);

// `fast` becomes `plain` for rows whose columns all count alike, by equal importance or by none.
Effort effort_for(const Rows& rows, Effort asked);

// A weight that is NaN or infinite: quantizing it has no meaning.
struct NonFiniteWeight : std::invalid_argument {
  NonFiniteWeight(std::int64_t row, std::int64_t column);
  std::int64_t row, column;
};

// A type whose weights can't take each other's errors.
struct NoFeedback : std::invalid_argument {
  explicit NoFeedback(const QuantType& type);
};

// On the processor; cuda/cuda.hpp has the same for CUDA devices. The caller owns the memory of every result.
void quantize(const QuantType& type, const Rows& rows, const Options& options, std::uint8_t* blocks);
void dequantize(const QuantType& type, const std::uint8_t* blocks, std::int64_t rows, std::int64_t row_length,
                const Options& options, float* weights);
// With error feedback: `factor` is U of H^-1 = U^T U for H the mean of x x^T over the inputs x, row after row.
// The importance of `rows` is not read. Throws std::invalid_argument for a factor that `importance_of` refuses
// and for a type that stores every weight by itself.
void quantize_with_feedback(const QuantType& type, const Rows& rows, const float* factor,
                            const Options& options, std::uint8_t* blocks);
// Such a factor for H = `gram` + `damping` * the mean of its diagonal * I (+ I if that mean is 0), of which only
// the upper triangle is read. Computed in double precision; threads and instruction sets change no bit. Throws
// std::invalid_argument for numbers that are not finite, if H is not positive definite, and if the factor is
// beyond the range of float.
void feedback_factor(const float* gram, std::int64_t columns, double damping, const Options& options,
                     float* factor);
// One pass over the tensor for all types: the sums of each row, type after type.
std::vector<ErrorSums> measure_rows(const std::vector<QuantType>& types, const Rows& rows,
                                    const Options& options);
// The sums of the whole tensor, one for each type.
std::vector<ErrorSums> measure(const std::vector<QuantType>& types, const Rows& rows, const Options& options);

// The importance of the columns, 1 / U_jj^2, of a factor as `quantize_with_feedback` takes. Throws
// std::invalid_argument if it is none.
std::vector<float> importance_of(const float* factor, std::int64_t columns);

// Adds up what `measure_rows` returns, row after row: the one order of addition on every device.
std::vector<ErrorSums> totals_of(const std::vector<ErrorSums>& sums_of_rows, std::size_t types,
                                 std::int64_t rows);

}  // namespace raq
