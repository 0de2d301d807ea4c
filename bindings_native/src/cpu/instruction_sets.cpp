#include "cpu/instruction_sets.hpp"

#include <algorithm>

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

namespace {

InstructionSet available(InstructionSet set) {
  static const std::vector<InstructionSet> sets = instruction_sets();
  if (set == InstructionSet::automatic) return sets.back();
  if (std::find(sets.begin(), sets.end(), set) == sets.end())
    throw std::invalid_argument("this processor or build does not have the asked instruction set");
  return set;
}

}  // namespace

const Kernels& cpu_kernels(const QuantType& type, InstructionSet set) {
  set = available(set);
#if defined(RAQ_X86)
  if (set == InstructionSet::v3) return kernels_v3()[type.index];
  if (set == InstructionSet::v4) return kernels_v4()[type.index];
#endif
  return kernels_baseline()[type.index];
}

const FactorKernels& factor_kernels(InstructionSet set) {
  set = available(set);
#if defined(RAQ_X86)
  if (set == InstructionSet::v3) return factor_kernels_v3();
  if (set == InstructionSet::v4) return factor_kernels_v4();
#endif
  return factor_kernels_baseline();
}

const GroupKernels& group_kernels(InstructionSet set) {
  set = available(set);
#if defined(RAQ_X86)
  if (set == InstructionSet::v3) return group_kernels_v3();
  if (set == InstructionSet::v4) return group_kernels_v4();
#endif
  return group_kernels_baseline();
}

}  // namespace raq
