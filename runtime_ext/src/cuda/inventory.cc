#include "cuda/inventory.h"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>

#include "cuda/device.h"

namespace dualbinary::cuda {
namespace {

#define DUALBINARY_CUDA_KERNEL(symbol, minimum, maximum) InventoryRow{&(symbol), minimum, maximum},
constexpr std::array kInventory = {
#include "cuda/kernels.inc"
};
#undef DUALBINARY_CUDA_KERNEL

bool runs_on(const InventoryRow& row, int capability) {
  return capability >= row.min_capability && capability <= row.max_capability;
}

}  // namespace

std::span<const InventoryRow> inventory() { return kInventory; }

void check_device(int capability) {
  const std::string has =
      "compute capability " + std::to_string(capability / 10) + "." + std::to_string(capability % 10);
  const bool any = std::any_of(kInventory.begin(), kInventory.end(),
                               [&](const InventoryRow& row) { return runs_on(row, capability); });
  if (!any) throw std::invalid_argument(has + ": the kernels need 8.0 or later");
  // Machine code runs on its own generation, from its own capability on.
  for (const int architecture : architectures()) {
    if (architecture / 10 == capability / 10 && architecture <= capability) return;
  }
  throw std::invalid_argument(
      has + ": this build has no code for it; build with DUALBINARY_CUDA_ARCHITECTURES=" + std::to_string(capability));
}

const CudaKernel& choose_kernel(const Call& call, int capability) {
  for (const InventoryRow& row : kInventory) {
    if (runs_on(row, capability) && row.kernel->suits(call)) return *row.kernel;
  }
  return *kInventory.back().kernel;
}

const CudaKernel& kernel_named(std::string_view name, int rows, int capability) {
  std::string names;
  for (const InventoryRow& row : kInventory) {
    const CudaKernel* kernel = row.kernel;
    names += (names.empty() ? "" : ", ") + std::string(kernel->name);
    if (name != kernel->name) continue;
    if (rows > kernel->max_rows) {
      throw std::invalid_argument("kernel " + std::string(name) + " takes at most " + std::to_string(kernel->max_rows) +
                                  " rows, got " + std::to_string(rows));
    }
    if (!runs_on(row, capability)) {
      throw std::invalid_argument("kernel " + std::string(name) + " runs on compute capabilities " +
                                  std::to_string(row.min_capability) + " to " + std::to_string(row.max_capability) +
                                  ", the device has " + std::to_string(capability));
    }
    return *kernel;
  }
  throw std::invalid_argument("kernel '" + std::string(name) + "' is unknown; there are " + names);
}

}  // namespace dualbinary::cuda
