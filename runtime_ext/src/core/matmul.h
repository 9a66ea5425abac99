// The product of activations and a weight.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/parallel.h"
#include "core/weight.h"
#include "kernels/kernel.h"

namespace dualbinary {

// Y [rows, N] of x.type = X [rows, K] times the weight. `y` must not overlap anything else. Safe to call from several
// threads at once. Results do not depend on the number of threads. Throws std::bad_alloc, and std::invalid_argument
// where results are not finite because a factor in a block is not.
void multiply(const Weight& weight, const Activations& x, std::int64_t rows, void* y, const ParallelFor& parallel);

}  // namespace dualbinary
