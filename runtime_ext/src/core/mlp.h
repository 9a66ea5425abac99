// DualBinaryMlp: a feed-forward block in one parallel loop. See contract/op.toml for what it computes.
#pragma once

#include <cstdint>

#include "core/parallel.h"
#include "core/weight.h"
#include "kernels/elementwise.h"
#include "kernels/kernel.h"

namespace dualbinary {

// A block whose node has been checked: hidden_size is gate_up's K and down's N, intermediate_size is half of gate_up's
// N and down's K. Vectors are null where the node has no such input.
struct Mlp {
  const Weight& gate_up;
  const Weight& down;
  Activation activation;
  float epsilon;
  const ElementwiseKernel& elementwise;
  const float* norm = nullptr;       // [H]
  const float* gate_bias = nullptr;  // [2 I], of gate and up
  const float* down_bias = nullptr;  // [H]
  const float* post_norm = nullptr;  // [H]
};

// Y [rows, H] of x.type = the block of X [rows, H]. `y` must not overlap anything else. Safe to call from several
// threads at once. Results do not depend on the number of threads. Throws as multiply() does.
void run_mlp(const Mlp& mlp, const Activations& x, std::int64_t rows, void* y, const ParallelFor& parallel);

}  // namespace dualbinary
