// The list of quant types, which copy of the kernels this processor runs, and names of devices.
#include <algorithm>
#include <charconv>

#include "quantizer.hpp"

namespace raq {
namespace {

struct Level {
  const char* name;
  InstructionSet set;
};
constexpr Level levels[] = {{"automatic", InstructionSet::automatic},
                            {"baseline", InstructionSet::baseline},
                            {"v3", InstructionSet::v3},
                            {"v4", InstructionSet::v4}};

}  // namespace

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

std::vector<InstructionSet> instruction_sets() {
  std::vector<InstructionSet> sets = {InstructionSet::baseline};
#if defined(RAQ_X86)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v3")) sets.push_back(InstructionSet::v3);
  if (__builtin_cpu_supports("x86-64-v4")) sets.push_back(InstructionSet::v4);
#endif
  return sets;
}

std::vector<std::string> instruction_set_names() {
  std::vector<std::string> names;
  for (const InstructionSet set : instruction_sets())
    for (const Level& level : levels)
      if (level.set == set) names.emplace_back(level.name);
  return names;
}

InstructionSet find_instruction_set(const std::string& name) {
  for (const Level& level : levels)
    if (name == level.name) return level.set;
  throw std::invalid_argument("unknown instruction set '" + name + "'");
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

const Kernels& cpu_kernels(const QuantType& type, InstructionSet set) {
  static const std::vector<InstructionSet> available = instruction_sets();
  if (set == InstructionSet::automatic) set = available.back();
  if (std::find(available.begin(), available.end(), set) == available.end())
    throw std::invalid_argument("this processor or build does not have the asked instruction set");
#if defined(RAQ_X86)
  if (set == InstructionSet::v3) return kernels_v3()[type.index];
  if (set == InstructionSet::v4) return kernels_v4()[type.index];
#endif
  return kernels_baseline()[type.index];
}

}  // namespace raq
