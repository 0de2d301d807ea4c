// Every quant type on any bytes and on extreme numbers, in a build with sanitizers: `just sanitize`.
//
// Arrays are allocated to the byte, so that a sanitizer sees every read or write beside one. What must hold:
// - any bytes can be dequantized;
// - finite weights become blocks that are finite again, whatever the importance, and whatever the factor of
//   error feedback, and whatever the matrices that codes are chosen again by;
// - the error message names the position of a NaN.
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>

#include "both_sides.hpp"
#include "quantizer.hpp"
#include "refine.hpp"

namespace {

using Random = std::mt19937_64;

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "raq_fuzz: %s\n", what.c_str());
  std::exit(1);
}

// Any bits that are a finite float.
float any_finite(Random& random) {
  for (;;) {
    const float value = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    if (std::isfinite(value)) return value;
  }
}

float hard_weight(Random& random, int kind) {
  const float sign = random() % 2 ? 1.0f : -1.0f;
  switch (kind) {
    case 0:
      return any_finite(random);
    case 1:
      return sign * std::ldexp(1.0f, -149 + static_cast<int>(random() % 40));  // denormals
    case 2:
      return sign * 3.4e38f;
    case 3:
      return random() % 50 ? sign * 1e-3f : 1e30f;  // outliers
    case 4:
      return random() % 30 ? 0.0f : any_finite(random);
    case 5:
      return 0.25f;
    default:
      return std::normal_distribution<float>(0.0f, 1.0f)(random);
  }
}
constexpr int weight_kinds = 7;

float hard_importance(Random& random, int kind) {
  switch (kind) {
    case 1:
      return 0.0f;
    case 2:
      return std::fabs(any_finite(random));
    case 3:
      return random() % 2 ? 0.0f : 1e-40f;
    default:
      return std::exponential_distribution<float>(1.0f)(random);
  }
}
constexpr int importance_kinds = 5;  // kind 0: none

struct Case {
  std::int64_t rows, length;
  std::unique_ptr<float[]> weights, importance;

  Case(Random& random, std::int64_t rows_, std::int64_t length_, int weight_kind, int importance_kind)
      : rows(rows_), length(length_), weights(new float[rows * length]) {
    for (std::int64_t i = 0; i < rows * length; ++i) weights[i] = hard_weight(random, weight_kind);
    if (importance_kind == 0) return;
    importance.reset(new float[length]);
    for (std::int64_t i = 0; i < length; ++i) importance[i] = hard_importance(random, importance_kind);
  }
  raq::Rows view() const { return {weights.get(), importance.get(), rows, length}; }
};

void quantize_and_back(const raq::QuantType& type, const Case& given, raq::Effort effort) {
  const raq::Options options{effort, 1};
  const std::int64_t bytes = given.rows * type.row_bytes(given.length), count = given.rows * given.length;
  const std::unique_ptr<std::uint8_t[]> blocks(new std::uint8_t[bytes]);
  const std::unique_ptr<float[]> restored(new float[count]);
  raq::quantize(type, given.view(), options, blocks.get());
  raq::dequantize(type, blocks.get(), given.rows, given.length, options, restored.get());
  for (std::int64_t i = 0; i < count; ++i)
    if (!std::isfinite(restored[i])) fail(std::string(type.name) + " made a weight that is not finite");
  for (const raq::ErrorSums& sums : raq::measure_rows({type}, given.view(), options))
    if (!std::isfinite(sums.weighted_squared_error) || sums.weighted_squared_error < 0)
      fail(std::string(type.name) + " measured an error that is not a finite number");
}

// Upper triangular, its diagonal over twenty powers of ten, and beside it any numbers or small ones.
std::unique_ptr<float[]> hard_factor(Random& random, std::int64_t length, bool any) {
  std::unique_ptr<float[]> factor(new float[length * length]);
  for (std::int64_t j = 0; j < length; ++j)
    for (std::int64_t k = 0; k < length; ++k)
      factor[j * length + k] = k < j    ? 0.0f
                               : k == j ? std::pow(10.0f, static_cast<float>(random() % 21) - 10.0f)
                               : any    ? any_finite(random)
                                        : std::normal_distribution<float>(0.0f, 0.1f)(random);
  return factor;
}

void feed_errors_forward(const raq::QuantType& type, const Case& given, Random& random, bool any) {
  const raq::Options options{raq::Effort::fast, 1};
  const std::int64_t bytes = given.rows * type.row_bytes(given.length), count = given.rows * given.length;
  const std::unique_ptr<float[]> factor = hard_factor(random, given.length, any);
  const std::unique_ptr<std::uint8_t[]> blocks(new std::uint8_t[bytes]);
  const std::unique_ptr<float[]> restored(new float[count]);
  raq::quantize_with_feedback(type, given.view(), factor.get(), options, blocks.get());
  raq::dequantize(type, blocks.get(), given.rows, given.length, options, restored.get());
  for (std::int64_t i = 0; i < count; ++i)
    if (!std::isfinite(restored[i])) fail(std::string(type.name) + " fed forward what is not finite");
}

// Between rows too, of three groups, by two threads. What is fed to a row may be beyond the range of float: then the row is
// named.
void feed_errors_to_rows(const raq::QuantType& type, Random& random, int kind, bool any) {
  const Case given(random, 35, 256 + type.weights_per_block, kind, 0);
  const raq::Options options{raq::Effort::fast, 2};
  const std::int64_t bytes = given.rows * type.row_bytes(given.length), count = given.rows * given.length;
  const std::unique_ptr<float[]> factor = hard_factor(random, given.length, any),
                                 row_factor = hard_factor(random, given.rows, any);
  const std::unique_ptr<std::uint8_t[]> blocks(new std::uint8_t[bytes]);
  const std::unique_ptr<float[]> restored(new float[count]);
  try {
    raq::quantize_on_both_sides(type, given.view(), factor.get(), row_factor.get(), options, blocks.get());
  } catch (const raq::NonFiniteWeight& error) {
    if (error.row < raq::feedback_rows) fail(std::string(type.name) + " names a row that gets no errors");
    return;
  }
  raq::dequantize(type, blocks.get(), given.rows, given.length, options, restored.get());
  for (std::int64_t i = 0; i < count; ++i)
    if (!std::isfinite(restored[i])) fail(std::string(type.name) + " fed to rows what is not finite");
}

// Any finite numbers beside a diagonal over twenty powers of ten: no matrix that inputs have.
std::unique_ptr<float[]> hard_metric(Random& random, std::int64_t size) {
  std::unique_ptr<float[]> metric(new float[size * size]);
  for (std::int64_t i = 0; i < size * size; ++i)
    metric[i] =
        i % (size + 1) == 0 ? std::pow(10.0f, static_cast<float>(random() % 21) - 10.0f) : any_finite(random);
  return metric;
}

void choose_again(const raq::QuantType& type, const Case& given, Random& random) {
  const raq::Options options{raq::Effort::fast, 1};
  const std::int64_t count = given.rows * given.length;
  const std::unique_ptr<float[]> inputs = hard_metric(random, given.length),
                                 outputs = hard_metric(random, given.rows);
  const std::unique_ptr<std::uint8_t[]> blocks(new std::uint8_t[given.rows * type.row_bytes(given.length)]);
  const std::unique_ptr<float[]> restored(new float[count]);
  raq::quantize(type, given.view(), options, blocks.get());
  raq::refine_codes(type, given.view(), inputs.get(), random() % 2 ? outputs.get() : nullptr, 2, options,
                    blocks.get());
  raq::dequantize(type, blocks.get(), given.rows, given.length, options, restored.get());
  for (std::int64_t i = 0; i < count; ++i)
    if (!std::isfinite(restored[i])) fail(std::string(type.name) + " chose again what is not finite");
}

void read_any_bytes(const raq::QuantType& type, Random& random, std::int64_t rows, std::int64_t length) {
  const std::int64_t bytes = rows * type.row_bytes(length);
  const std::unique_ptr<std::uint8_t[]> blocks(new std::uint8_t[bytes]);
  const std::unique_ptr<float[]> restored(new float[rows * length]);
  for (std::int64_t i = 0; i < bytes; ++i) blocks[i] = static_cast<std::uint8_t>(random() >> 32);
  raq::dequantize(type, blocks.get(), rows, length, {}, restored.get());
}

void refuse_nan(const raq::QuantType& type, Case given, Random& random) {
  const std::int64_t place = static_cast<std::int64_t>(random() % (given.rows * given.length));
  given.weights[place] = random() % 2 ? NAN : -INFINITY;
  const std::unique_ptr<std::uint8_t[]> blocks(new std::uint8_t[given.rows * type.row_bytes(given.length)]);
  const std::string named =
      "weight [" + std::to_string(place / given.length) + ", " + std::to_string(place % given.length) + "]";
  try {
    raq::quantize(type, given.view(), {}, blocks.get());
  } catch (const raq::NonFiniteWeight& error) {
    if (std::string(error.what()).starts_with(named)) return;
    fail(std::string(type.name) + ": " + error.what() + " is not " + named);
  }
  fail(std::string(type.name) + " took a weight that is not finite");
}

}  // namespace

// Arguments: rounds, first seed.
int main(int count, char** arguments) {
  const int rounds = count > 1 ? std::atoi(arguments[1]) : 1;
  const unsigned long long seed = count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 0;
  for (int round = 0; round < rounds; ++round)
    for (const raq::QuantType& type : raq::quant_types()) {
      Random random(seed + static_cast<unsigned long long>(round));
      // Tiles of 4 blocks: whole ones, and a rest of 1 to 3.
      const std::int64_t length = type.weights_per_block == 1 ? 37 : 3 * type.weights_per_block;
      for (int kind = 0; kind < weight_kinds; ++kind)
        for (int importance = 0; importance < importance_kinds; ++importance) {
          const Case given(random, 1 + kind % 3, length, kind, importance);
          quantize_and_back(type, given, raq::Effort::fast);
          if ((kind + importance) % 5 == 0) quantize_and_back(type, given, raq::Effort::best);
          if (importance < 2 && type.weights_per_block > 1)
            feed_errors_forward(type, given, random, importance == 1);
          if (importance == 0 && type.weights_per_block > 1) choose_again(type, given, random);
        }
      for (int kind = 0; type.weights_per_block > 1 && kind < weight_kinds; ++kind)
        feed_errors_to_rows(type, random, kind, kind % 2 == 0);
      for (int rows = 1; rows <= 4; ++rows) read_any_bytes(type, random, rows, length);
      refuse_nan(type, Case(random, 3, length, 6, 4), random);
    }
  std::printf("raq_fuzz: %d rounds over %zu types, nothing found\n", rounds, raq::quant_types().size());
}
