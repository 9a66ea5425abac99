// Kernels for products on CUDA devices, and the choice among them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "cuda/activations.h"
#include "cuda/packed.h"

namespace dualbinary::cuda {

// One product, checked.
struct Call {
  PackedWeight weight;
  int accuracy_level;  // 0 or 4
  int multiprocessors;
  Activations x;
  void* y;
  std::uint8_t* workspace;  // aligned to contract::kCudaWorkspaceAlignment bytes
  void* stream;
};

struct CudaKernel {
  const char* name;
  int max_rows;                           // of X
  bool (*suits)(const Call&);             // true if it is the one to choose where none before it is
  std::size_t (*workspace)(const Call&);  // bytes; reads neither the pointers nor the stream
  void (*launch)(const Call&);
};

#define DUALBINARY_CUDA_KERNEL(symbol, minimum, maximum) extern const CudaKernel symbol;
#include "cuda/kernels.inc"
#undef DUALBINARY_CUDA_KERNEL

// A line of kernels.inc.
struct InventoryRow {
  const CudaKernel* kernel;
  int min_capability;  // of a device; 90 for 9.0
  int max_capability;
};

// The kernels of this build, fastest first.
std::span<const InventoryRow> inventory();

// Throws std::invalid_argument where no kernel runs on a device.
void check_device(int capability);

// The first of the inventory that runs on a device of that capability and suits the call.
const CudaKernel& choose_kernel(const Call& call, int capability);

// The kernel of that name. Throws std::invalid_argument, which lists the kernels, where it is unknown, or cannot take
// `rows` rows or run on a device of that capability.
const CudaKernel& kernel_named(std::string_view name, int rows, int capability);

}  // namespace dualbinary::cuda
