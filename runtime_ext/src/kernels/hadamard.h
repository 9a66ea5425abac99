// What a kernel of SignedHadamard computes, and the plain data that core and kernels exchange.
//
//   inverse 0   Y[k] = scale * sum over j in the block of k of (-1)^popcount(k' & j') * S[j] * X[j]
//   inverse 1   Y[k] = S[k] * scale * sum over j in the block of k of (-1)^popcount(k' & j') * X[j]
//
// k' and j' are places in the block, scale is block_size^(-1/2). A block goes through log2(block_size) stages: in each,
// two numbers become their sum and their difference, first neighbors, then those 2 apart, 4 apart and so on. Inputs are
// scaled before, so that no sum on the way is larger than the largest result can be.
//
// All kernels do the same operations in the same order, so that they agree to the bit: x * (S * scale), or x * scale;
// the stages; and, with inverse 1, times S. Products are never joined with the sums that follow, whose operands have
// been rounded to float32.
//
// This header is included by files that are compiled for one ISA, so it holds no function, as kernel.h does not.
#pragma once

#include <cstdint>

#include "kernels/kernel.h"

namespace dualbinary {

// Inputs that a kernel takes at once. A run is a multiple of them or a whole row, wherever blocks are smaller.
inline constexpr std::int64_t kHadamardLanes = 16;

// Neighboring blocks of one row. `x` and `y` are of `type`, float32 or float16; `signs` are those of these inputs.
struct HadamardRun {
  const void* x;
  const std::int8_t* signs;
  void* y;
  float* work;         // of float16: [block_size], at least kHadamardLanes
  std::int64_t count;  // inputs of all blocks
  std::int64_t block_size;
  float scale;
  Element type;
  bool inverse;
};

// An entry of the inventory.
struct HadamardKernel {
  const char* name;
  Isa isa;
  void (*transform)(const HadamardRun&);
};

}  // namespace dualbinary
