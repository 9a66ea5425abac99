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
  int max_rows;  // of X
  int min_capability;
  int max_capability;
  bool (*suits)(const Call&);             // whether it is the one to choose, if none before it is
  std::size_t (*workspace)(const Call&);  // bytes; reads neither the pointers nor the stream
  void (*launch)(const Call&);
};

extern const Kernel decode_b1;
extern const Kernel decode_s8;
extern const Kernel prefill_wgmma;
extern const Kernel prefill_mma;

std::span<const Kernel* const> inventory();

// Throws std::invalid_argument where no kernel runs on a device.
void check_device(int capability);

// The first of the inventory that runs on a device of that capability and suits the call.
const Kernel& choose_kernel(const Call& call, int capability);

// The kernel of that name. Throws std::invalid_argument, and says what there is, where it is unknown, or cannot take
// `rows` rows or run on a device of that capability.
const Kernel& kernel_named(std::string_view name, int rows, int capability);

}  // namespace dualbinary::cuda
