#include "core/dispatch.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <utility>

#include "contract.h"
#include "core/cpu_features.h"
#include "core/spec.h"
#include "kernels/inventory.h"

namespace dualbinary {
namespace {

#define DUALBINARY_KERNEL(symbol) &(symbol),
constexpr std::array kInventory = {
#include "kernels/kernels.inc"
};

#define DUALBINARY_HADAMARD(symbol) &(symbol),
constexpr std::array kHadamards = {
#include "kernels/kernels.inc"
};

#define DUALBINARY_ELEMENTWISE(symbol) &(symbol),
constexpr std::array kElementwise = {
#include "kernels/kernels.inc"
};

#define DUALBINARY_ATTENTION(symbol) &(symbol),
constexpr std::array kAttention = {
#include "kernels/kernels.inc"
};

// The value of DUALBINARY_ISA; empty where it is not set.
std::string_view forced_isa() {
  const char* forced = std::getenv(kIsaVariable);
  return forced == nullptr ? "" : forced;
}

// True if `forced` allows kernels of `isa`. An instruction set that adds to another one stands for both.
bool allows(std::string_view forced, Isa isa) {
  constexpr std::array kAdditions = {std::pair{Isa::kI8mm, Isa::kNeon}, std::pair{Isa::kAvxVnni, Isa::kAvx2}};
  return forced.empty() || forced == isa_name(isa) ||
         std::any_of(kAdditions.begin(), kAdditions.end(), [&](const auto& addition) {
           return forced == isa_name(addition.first) && isa == addition.second;
         });
}

bool serves_accuracy(const MatMulKernel& kernel, const Spec& spec) {
  return kernel.accuracy_level <= spec.accuracy_level;
}

bool serves_levels(const MatMulKernel& kernel, const Spec& spec) {
  return spec.levels == kFreeLevels ? kernel.free_levels : kernel.even_levels;
}

// Layouts that a weight of any kernel is made from.
constexpr std::array kForAll = {contract::kLayoutPlain, contract::kLayoutCodes};

// Tables are packed from a plain weight or from codes, or come from a file as they are.
bool reads(const MatMulKernel& kernel, std::int64_t layout) {
  return layout == kernel.layout || std::find(kForAll.begin(), kForAll.end(), layout) != kForAll.end();
}

[[noreturn]] void refuse_layout(std::int64_t layout, std::string_view forced) {
  const std::string name = layout_name(layout);
  std::string readable;
  for (const std::int64_t other : readable_layouts()) {
    readable += std::string(readable.empty() ? "" : ", ") + layout_name(other);
  }
  // A layout of blocks is named after the instruction set that reads it.
  const bool in_build = std::any_of(kInventory.begin(), kInventory.end(),
                                    [&](const MatMulKernel* kernel) { return kernel->layout == layout; });
  std::string reason = in_build ? "this CPU cannot run" : "this build of the library does not have";
  if (in_build && !forced.empty()) reason = std::string(kIsaVariable) + "=" + std::string(forced) + " rules out";
  throw std::invalid_argument("layout " + std::to_string(layout) + " (" + name + "): the weights are stored for " +
                              name + " kernels, which " + reason + "; readable here: " + readable +
                              ". Convert the file: dualbinary relayout FILE OUT --layout plain");
}

// The names of what runs here, by `name_of`, without repetition.
template <class Inventory, class NameOf>
std::string available(const Inventory& kernels, NameOf name_of) {
  std::string list;
  std::string last;
  for (const auto* kernel : kernels) {
    const std::string name = name_of(*kernel);
    if (!runs_here(*kernel) || name == last) continue;
    list += (list.empty() ? "" : ", ") + name;
    last = name;
  }
  return list;
}

// The kernel of that name. Throws where there is none, or it does not run here.
template <class Inventory>
const auto& named(const Inventory& kernels, std::string_view name) {
  const auto known = [&] { return available(kernels, [](const auto& kernel) { return kernel.name; }); };
  for (const auto* kernel : kernels) {
    if (name != kernel->name) continue;
    if (runs_here(*kernel)) return *kernel;
    throw std::invalid_argument("kernel " + std::string(name) + " needs a CPU with " + isa_name(kernel->isa) +
                                "; available here: " + known());
  }
  throw std::invalid_argument("kernel '" + std::string(name) + "' is unknown; available: " + known());
}

// The first kernel that runs here and `forced` allows. Every instruction set of the product has one.
template <class Inventory>
const auto& fastest(const Inventory& kernels, std::string_view forced) {
  return **std::find_if(kernels.begin(), kernels.end(),
                        [&](const auto* kernel) { return cpu_has(kernel->isa) && allows(forced, kernel->isa); });
}

// The value of DUALBINARY_ISA. Throws where it names an instruction set that no kernel here has.
std::string_view checked_isa() {
  const std::string_view forced = forced_isa();
  const bool there =
      forced.empty() || std::any_of(kInventory.begin(), kInventory.end(), [&](const MatMulKernel* kernel) {
        return runs_here(*kernel) && forced == isa_name(kernel->isa);
      });
  if (there) return forced;
  const auto isa = [](const MatMulKernel& kernel) { return isa_name(kernel.isa); };
  throw std::invalid_argument(std::string(kIsaVariable) + "=" + std::string(forced) +
                              ": this machine and build have no such kernels; available: " +
                              available(kInventory, isa) + ". Unset it to take the fastest.");
}

}  // namespace

std::span<const MatMulKernel* const> inventory() { return kInventory; }
std::span<const HadamardKernel* const> hadamard_inventory() { return kHadamards; }

bool runs_here(const MatMulKernel& kernel) { return cpu_has(kernel.isa); }
bool runs_here(const HadamardKernel& kernel) { return cpu_has(kernel.isa); }

const MatMulKernel& choose_kernel(const Spec& spec) {
  const std::string_view forced = checked_isa();
  for (const MatMulKernel* kernel : kInventory) {
    const bool wanted = kernel->packed_as == nullptr && allows(forced, kernel->isa) && reads(*kernel, spec.layout);
    const bool serves = serves_accuracy(*kernel, spec) && serves_levels(*kernel, spec);
    if (wanted && serves && runs_here(*kernel)) return *kernel;
  }
  refuse_layout(spec.layout, forced);
}

std::vector<std::int64_t> readable_layouts() {
  std::vector<std::int64_t> layouts(kForAll.begin(), kForAll.end());
  for (const MatMulKernel* kernel : kInventory) {
    const bool wanted = runs_here(*kernel) && allows(forced_isa(), kernel->isa);
    if (wanted && std::find(layouts.begin(), layouts.end(), kernel->layout) == layouts.end()) {
      layouts.push_back(kernel->layout);
    }
  }
  std::sort(layouts.begin(), layouts.end());
  return layouts;
}

const MatMulKernel* many_rows_kernel(const MatMulKernel& kernel, const Spec& spec) {
  for (const MatMulKernel* other : kInventory) {
    const bool wanted = other->packed_as == &kernel && serves_levels(*other, spec);
    if (wanted && runs_here(*other) && allows(forced_isa(), other->isa)) return other;
  }
  return nullptr;
}

const MatMulKernel& kernel_named(std::string_view name, const Spec& spec) {
  const MatMulKernel& kernel = named(kInventory, name);
  if (!serves_accuracy(kernel, spec)) {
    throw std::invalid_argument("kernel " + std::string(name) + " serves accuracy_level " +
                                std::to_string(kernel.accuracy_level) + " and up, asked for " +
                                std::to_string(spec.accuracy_level));
  }
  if (!serves_levels(kernel, spec)) {
    const bool even = spec.levels == kEvenLevels;
    throw std::invalid_argument("kernel " + std::string(name) + " serves " + (even ? "free" : "even") +
                                " levels alone, asked for " + (even ? "even" : "free") + " ones");
  }
  if (!reads(kernel, spec.layout)) {
    throw std::invalid_argument("kernel " + std::string(name) + " reads the layouts plain, codes and " +
                                layout_name(kernel.layout) + ", got " + layout_name(spec.layout));
  }
  return kernel;
}

const HadamardKernel& choose_hadamard_kernel() {
  const std::string_view forced = checked_isa();
  return fastest(kHadamards, forced);
}

const ElementwiseKernel& choose_elementwise_kernel() { return fastest(kElementwise, checked_isa()); }
const AttentionKernel& choose_attention_kernel() { return fastest(kAttention, checked_isa()); }

const HadamardKernel& hadamard_kernel_named(std::string_view name) { return named(kHadamards, name); }

}  // namespace dualbinary
