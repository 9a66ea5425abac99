#include "core/dispatch.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "core/cpu_features.h"
#include "kernels/inventory.h"

namespace dualbinary {
namespace {

#define DUALBINARY_KERNEL(symbol) &(symbol),
constexpr std::array kInventory = {
#include "kernels/kernels.inc"
};
#undef DUALBINARY_KERNEL

// What DUALBINARY_ISA names; empty where it is not set.
std::string_view forced_isa() {
  const char* forced = std::getenv(kIsaVariable);
  return forced == nullptr ? "" : forced;
}

// True if `forced` allows kernels of `isa`. An instruction set that adds to another one stands for both.
bool allows(std::string_view forced, Isa isa) {
  return forced.empty() || forced == isa_name(isa) || (forced == isa_name(Isa::kI8mm) && isa == Isa::kNeon);
}

bool serves(const Kernel& kernel, int accuracy_level) { return kernel.accuracy_level <= accuracy_level; }

// The names of what runs here, by `name_of`, without repetition.
template <class NameOf>
std::string available(NameOf name_of) {
  std::string list;
  std::string last;
  for (const Kernel* kernel : kInventory) {
    const std::string name = name_of(*kernel);
    if (!runs_here(*kernel) || name == last) continue;
    list += (list.empty() ? "" : ", ") + name;
    last = name;
  }
  return list;
}

const char* name_of_isa(const Kernel& kernel) { return isa_name(kernel.isa); }
const char* name_of_kernel(const Kernel& kernel) { return kernel.name; }

}  // namespace

std::span<const Kernel* const> inventory() { return kInventory; }

bool runs_here(const Kernel& kernel) { return cpu_has(kernel.isa); }

const Kernel& choose_kernel(int accuracy_level) {
  const std::string_view forced = forced_isa();
  const bool there = forced.empty() || std::any_of(kInventory.begin(), kInventory.end(), [&](const Kernel* kernel) {
                       return runs_here(*kernel) && forced == isa_name(kernel->isa);
                     });
  for (const Kernel* kernel : kInventory) {
    const bool wanted = there && kernel->packed_as == nullptr && allows(forced, kernel->isa);
    if (wanted && runs_here(*kernel) && serves(*kernel, accuracy_level)) return *kernel;
  }
  throw std::invalid_argument(std::string(kIsaVariable) + "=" + std::string(forced) +
                              ": this machine and build have no such kernels; available: " + available(name_of_isa) +
                              ". Unset it to take the fastest.");
}

const Kernel* many_rows_kernel(const Kernel& kernel) {
  for (const Kernel* other : kInventory) {
    if (other->packed_as == &kernel && runs_here(*other) && allows(forced_isa(), other->isa)) return other;
  }
  return nullptr;
}

const Kernel& kernel_named(std::string_view name, int accuracy_level) {
  for (const Kernel* kernel : kInventory) {
    if (name != kernel->name) continue;
    if (!runs_here(*kernel)) {
      throw std::invalid_argument("kernel " + std::string(name) + " needs a CPU with " + isa_name(kernel->isa) +
                                  "; available here: " + available(name_of_kernel));
    }
    if (!serves(*kernel, accuracy_level)) {
      throw std::invalid_argument("kernel " + std::string(name) + " serves accuracy_level " +
                                  std::to_string(kernel->accuracy_level) + " and up, asked for " +
                                  std::to_string(accuracy_level));
    }
    return *kernel;
  }
  throw std::invalid_argument("kernel '" + std::string(name) + "' is unknown; available: " + available(name_of_kernel));
}

}  // namespace dualbinary
