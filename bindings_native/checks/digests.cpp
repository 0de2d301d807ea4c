// Prints digests of what every quant type's quantizer writes, with error feedback too and with codes chosen again,
// and its dequantizer restores, and of a factor for feedback, for numbers made by integer arithmetic alone. Two
// machines that print the same lines have the same formats, to the byte.
#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <vector>

#include "both_sides.hpp"
#include "quantizer.hpp"
#include "refine.hpp"

namespace {

constexpr std::int64_t rows = 24, length = 1536;

std::uint64_t digest(const void* data, std::size_t size) {  // FNV-1a
  std::uint64_t sum = 0xcbf29ce484222325u;
  for (std::size_t i = 0; i < size; ++i)
    sum = (sum ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001b3u;
  return sum;
}

// Any finite float, in rows of one magnitude, one outlier, zeros, denormals and the whole range of exponents.
std::vector<float> hard_weights() {
  std::vector<float> weights(rows * length);
  std::uint32_t state = 1;
  for (std::int64_t i = 0; i < rows * length; ++i) {
    state = state * 1664525u + 1013904223u;
    const std::int64_t row = i / length;
    std::uint32_t bits = state;
    if (row % 4 == 0) bits = (bits & 0x80ffffffu) | 0x3c000000u;      // |w| of 2^-7 to 2^-5
    if (row % 4 == 1) bits = (bits & 0x807fffffu) | 0x3f800000u;      // 1 to 2
    if (row % 4 == 2) bits = row % 8 == 2 ? bits & 0x807fffffu : 0u;  // denormals; zeros
    if ((bits & 0x7f800000u) == 0x7f800000u) bits &= 0x807fffffu;     // neither NaN nor infinite
    std::memcpy(&weights[i], &bits, sizeof bits);
  }
  weights[5 * length + 7] = 3e4f;
  return weights;
}

// Upper triangular, by integer arithmetic as well.
std::vector<float> factor() {
  std::vector<float> numbers(length * length);
  for (std::int64_t j = 0; j < length; ++j) {
    numbers[j * length + j] = 1 + static_cast<float>(j % 7) / 8;
    for (std::int64_t k = j + 1; k < length; ++k)
      numbers[j * length + k] = static_cast<float>((31 * j + 17 * k) % 97 - 48) / 4096;
  }
  return numbers;
}

// A symmetric matrix that is positive definite because each number on its diagonal is above the sum of the others
// in its row: at most 1535 * 48 / 4096.
std::vector<float> gram(const std::vector<float>& upper, std::int64_t size) {
  std::vector<float> full = upper;
  for (std::int64_t j = 0; j < size; ++j) {
    full[j * size + j] += 18;
    for (std::int64_t k = j + 1; k < size; ++k) full[k * size + j] = full[j * size + k];
  }
  return full;
}

void print_feedback(const raq::QuantType& type, const std::vector<float>& weights) {
  static const std::vector<float> upper = factor();
  raq::Options options;
  options.threads = 1;
  std::vector<std::uint8_t> blocks(rows * type.row_bytes(length));
  raq::quantize_with_feedback(type, {weights.data(), nullptr, rows, length}, upper.data(), options,
                              blocks.data());
  std::printf("%-8s feedback %016" PRIx64 "\n", type.name, digest(blocks.data(), blocks.size()));
  std::vector<float> of_rows(rows * rows);
  for (std::int64_t j = 0; j < rows; ++j)
    std::copy_n(upper.data() + j * length, rows, of_rows.data() + j * rows);
  raq::quantize_on_both_sides(type, {weights.data(), nullptr, rows, length}, upper.data(), of_rows.data(),
                              options, blocks.data());
  std::printf("%-8s both sides %016" PRIx64 "\n", type.name, digest(blocks.data(), blocks.size()));
  static const std::vector<float> inputs = gram(upper, length), outputs = gram(of_rows, rows);
  raq::refine_codes(type, {weights.data(), nullptr, rows, length}, inputs.data(), outputs.data(), 2, options,
                    blocks.data());
  std::printf("%-8s chosen again %016" PRIx64 "\n", type.name, digest(blocks.data(), blocks.size()));
}

void print_factor() {
  const std::vector<float> matrix = gram(factor(), length);
  raq::Options options;
  options.threads = 1;
  std::vector<float> found(length * length);
  raq::feedback_factor(matrix.data(), length, 0.05, options, found.data());
  std::printf("factor   %016" PRIx64 "\n", digest(found.data(), found.size() * sizeof(float)));
}

}  // namespace

int main() {
  print_factor();
  const std::vector<float> weights = hard_weights();
  std::vector<float> importance(length);
  for (std::int64_t i = 0; i < length; ++i) importance[i] = static_cast<float>(i % 17 * (i % 5)) / 16;
  for (const raq::QuantType& type : raq::quant_types()) {
    if (type.weights_per_block > 1) print_feedback(type, weights);
    for (const bool weighted : {false, true})
      for (const raq::Effort effort : {raq::Effort::fast, raq::Effort::best}) {
        const raq::Rows all{weights.data(), weighted ? importance.data() : nullptr, rows, length};
        raq::Options options;
        options.effort = effort;
        options.threads = 1;
        std::vector<std::uint8_t> blocks(rows * type.row_bytes(length));
        raq::quantize(type, all, options, blocks.data());
        std::vector<float> restored(rows * length);
        raq::dequantize(type, blocks.data(), rows, length, options, restored.data());
        std::printf("%-8s %d %d %016" PRIx64 " %016" PRIx64 "\n", type.name, weighted,
                    effort == raq::Effort::best, digest(blocks.data(), blocks.size()),
                    digest(restored.data(), restored.size() * sizeof(float)));
      }
  }
}
