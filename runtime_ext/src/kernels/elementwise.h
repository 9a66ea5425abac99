// What lies between the products of a block: norms, activations, sums. The plain data that core and kernels exchange.
//
// exp() is within 3e-7 of the result, relative: 2^n e^r with |r| <= log(2) / 2, by the Taylor series up to r^7. erf is
// that of Abramowitz and Stegun, 7.1.26, within 2e-7. Kernels of different instruction sets agree within a few
// roundings of float32, not to the bit; sums are taken in 16 lanes, so none depends on the number of threads.
//
// This header is included by files that are compiled for one ISA, so it holds no function, as kernel.h does not.
#pragma once

#include <cstdint>

#include "kernels/kernel.h"

namespace dualbinary {

// Functions of the gate; the numbers are those of the contract.
enum class Activation : std::int64_t { kSilu = 0, kGeluTanh = 1, kGeluErf = 2, kSquaredRelu = 3 };

// An entry of the inventory. All pointers are to `count` numbers unless said otherwise.
struct ElementwiseKernel {
  const char* name;
  Isa isa;
  // y = x of type float32 or float16.
  void (*load)(const void* x, Element type, std::int64_t count, float* y);
  // y = weight * x / sqrt(mean of x^2 + epsilon); y may be x.
  void (*rms_norm)(const float* x, const float* weight, std::int64_t count, float epsilon, float* y);
  // y = activation(gate + gate_bias) * (up + up_bias). Both biases are null where there are none.
  void (*gate)(Activation activation, const float* gate, const float* up, const float* gate_bias, const float* up_bias,
               std::int64_t count, float* y);
  // y of `type` = a + b + bias, rounded once from float32; a and bias may be null.
  void (*add)(const float* a, const float* b, const float* bias, std::int64_t count, Element type, void* y);
};

}  // namespace dualbinary
