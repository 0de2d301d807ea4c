// What processor and CUDA share: the list of quant types, names of devices, efforts, totals of errors.
#include "quantizer.hpp"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>

namespace raq {

std::int64_t QuantType::row_bytes(std::int64_t row_length) const {
  if (row_length % weights_per_block != 0)
    throw std::invalid_argument("row length " + std::to_string(row_length) + " is not a multiple of " +
                                std::to_string(weights_per_block) + ", the block of " + name);
  return row_length / weights_per_block * bytes_per_block;
}

const std::vector<QuantType>& quant_types() {
  static const std::vector<QuantType> list = [] {
    std::vector<QuantType> rows = {
#define RAQ_QUANT_TYPE(name, id, weights_per_block, bytes_per_block) \
  {#name, id, weights_per_block, bytes_per_block, 0},
#include "quant_types.def"
#undef RAQ_QUANT_TYPE
    };
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i].index = static_cast<int>(i);
    return rows;
  }();
  return list;
}

const QuantType& find_quant_type(const std::string& name) {
  const auto& list = quant_types();
  const auto found =
      std::find_if(list.begin(), list.end(), [&](const QuantType& type) { return name == type.name; });
  if (found == list.end()) throw std::invalid_argument("unknown quant type '" + name + "'");
  return *found;
}

Device find_device(const std::string& name) {
  if (name == "cpu") return {};
  if (name == "cuda") return {true, Device::all};
  int number = Device::all;
  const char* const end = name.data() + name.size();
  if (name.starts_with("cuda:")) {
    const auto [stop, error] = std::from_chars(name.data() + 5, end, number);
    if (error == std::errc() && stop == end && number >= 0) return {true, number};
  }
  throw std::invalid_argument("unknown device '" + name + "': it is 'cpu', 'cuda' (all) or 'cuda:N' (one)");
}

Effort effort_for(const Rows& rows, Effort asked) {
  if (asked != Effort::fast) return asked;
  const float* h = rows.importance;
  const bool alike =
      h == nullptr || std::all_of(h, h + rows.length, [&](float each) { return each == h[0]; });
  return alike ? Effort::plain : Effort::fast;
}

NonFiniteWeight::NonFiniteWeight(std::int64_t row_, std::int64_t column_)
    : std::invalid_argument("weight [" + std::to_string(row_) + ", " + std::to_string(column_) +
                            "] is NaN or infinite"),
      row(row_),
      column(column_) {}

NoFeedback::NoFeedback(const QuantType& type)
    : std::invalid_argument(std::string("errors cannot be fed forward in ") + type.name +
                            ": it stores every weight by itself") {}

namespace {

[[noreturn]] void refuse_factor(std::int64_t row, std::int64_t column, const char* what) {
  throw std::invalid_argument("factor [" + std::to_string(row) + ", " + std::to_string(column) + "] is " +
                              what);
}

// Whether row j of a factor is zero before the diagonal and finite after it. Without a branch for each number.
bool sound(const float* row, std::int64_t j, std::int64_t columns) {
  std::uint32_t below = 0, not_finite = 0;
  for (std::int64_t k = 0; k < j; ++k) below |= std::bit_cast<std::uint32_t>(row[k]) << 1;
  for (std::int64_t k = j; k < columns; ++k)
    not_finite |= (std::bit_cast<std::uint32_t>(row[k]) & 0x7fffffffu) > 0x7f7fffffu;
  return (below | not_finite) == 0;
}

}  // namespace

std::vector<float> importance_of(const float* factor, std::int64_t columns) {
  std::vector<float> importance(columns);
  for (std::int64_t j = 0; j < columns; ++j) {
    const float* row = factor + j * columns;
    if (!sound(row, j, columns))
      for (std::int64_t k = 0; k < columns; ++k) {
        if (!std::isfinite(row[k])) refuse_factor(j, k, "NaN or infinite");
        if (k < j && row[k] != 0) refuse_factor(j, k, "below the diagonal, but not zero");
      }
    importance[j] = 1.0f / (row[j] * row[j]);
    if (row[j] <= 0) refuse_factor(j, j, "on the diagonal, but not positive");
    if (!std::isnormal(importance[j]))
      refuse_factor(j, j, "on the diagonal, but its square is too small or too large");
  }
  return importance;
}

std::vector<ErrorSums> totals_of(const std::vector<ErrorSums>& sums_of_rows, std::size_t types,
                                 std::int64_t rows) {
  std::vector<ErrorSums> totals(types);
  for (std::size_t i = 0; i < sums_of_rows.size(); ++i) totals[i / rows].add(sums_of_rows[i]);
  return totals;
}

}  // namespace raq
