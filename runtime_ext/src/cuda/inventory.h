// The kernels for products, fastest first: what the launcher chooses from, and tests and benchmarks list.
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
  std::uint8_t* workspace;  // aligned to 256 bytes
  void* stream;
};

struct Kernel {
  const char* name;
  int min_rows;  // of X, where the library chooses; the kernel itself takes fewer as well
  int max_rows;  // that the kernel can take
  int min_capability;
  int max_capability;
  std::size_t (*workspace)(const Call&);  // bytes; reads neither the pointers nor the stream
  void (*launch)(const Call&);
};

extern const Kernel decode_b1;
extern const Kernel decode_s8;
extern const Kernel prefill_wgmma;
extern const Kernel prefill_mma;

std::span<const Kernel* const> inventory();

// The first of the inventory for which `rows` and `capability` are in range.
const Kernel& choose_kernel(int rows, int capability);

// The kernel of that name. Throws std::invalid_argument, and says what there is, where it is unknown, or cannot take
// `rows` rows or run on a device of that capability.
const Kernel& kernel_named(std::string_view name, int rows, int capability);

}  // namespace dualbinary::cuda
