#include "cuda/inventory.h"

#include <array>
#include <stdexcept>
#include <string>

#include "cuda/device.h"

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

void check_device(int capability) {
  const std::string has =
      "compute capability " + std::to_string(capability / 10) + "." + std::to_string(capability % 10);
  if (!runs_on(prefill_mma, capability)) throw std::invalid_argument(has + ": the kernels need 8.0 or later");
  // Machine code runs on its own generation, from its own capability on.
  for (const int architecture : architectures()) {
    if (architecture / 10 == capability / 10 && architecture <= capability) return;
  }
  throw std::invalid_argument(
      has + ": this build has no code for it; build with DUALBINARY_CUDA_ARCHITECTURES=" + std::to_string(capability));
}

const Kernel& choose_kernel(const Call& call, int capability) {
  for (const Kernel* kernel : kInventory) {
    if (runs_on(*kernel, capability) && kernel->suits(call)) return *kernel;
  }
  return prefill_mma;
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
