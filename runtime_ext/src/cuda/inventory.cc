#include "cuda/inventory.h"

#include <array>
#include <stdexcept>
#include <string>

namespace dualbinary::cuda {
namespace {

// Not every architecture has the instructions of the first and the third (cmake/cuda.cmake).
constexpr std::array kInventory = {
#if defined(DUALBINARY_HAS_DECODE_B1)
    &decode_b1,
#endif
    &decode_s8,
#if defined(DUALBINARY_HAS_PREFILL_WGMMA)
    &prefill_wgmma,
#endif
    &prefill_mma,
};

bool runs_on(const Kernel& kernel, int capability) {
  return capability >= kernel.min_capability && capability <= kernel.max_capability;
}

}  // namespace

std::span<const Kernel* const> inventory() { return kInventory; }

const Kernel& choose_kernel(int rows, int capability) {
  for (const Kernel* kernel : kInventory) {
    if (runs_on(*kernel, capability) && rows >= kernel->min_rows && rows <= kernel->max_rows) return *kernel;
  }
  throw std::invalid_argument("compute capability " + std::to_string(capability / 10) + "." +
                              std::to_string(capability % 10) + ": the kernels need 8.0 or later");
}

const Kernel& kernel_named(std::string_view name, int rows, int capability) {
  std::string names;
  for (const Kernel* kernel : kInventory) {
    names += (names.empty() ? "" : ", ") + std::string(kernel->name);
    if (name != kernel->name) continue;
    if (rows > kernel->max_rows) {
      throw std::invalid_argument("kernel " + std::string(name) + " takes at most " + std::to_string(kernel->max_rows) +
                                  " rows, got " + std::to_string(rows));
    }
    if (!runs_on(*kernel, capability)) {
      throw std::invalid_argument(
          "kernel " + std::string(name) + " runs on compute capabilities " + std::to_string(kernel->min_capability) +
          " to " + std::to_string(kernel->max_capability) + ", the device has " + std::to_string(capability));
    }
    return *kernel;
  }
  throw std::invalid_argument("kernel '" + std::string(name) + "' is unknown; there are " + names);
}

}  // namespace dualbinary::cuda
