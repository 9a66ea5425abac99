// The product of activations and a weight.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/weight.h"
#include "kernels/kernel.h"

namespace dualbinary {

// A parallel loop of the host: runs task(data, i) for every i in [0, count), in any order, and returns when all are
// done. Without `run` the loop runs on the calling thread.
struct ParallelFor {
  void (*run)(void* pool, void (*task)(void* data, std::size_t index), void* data, std::size_t count) = nullptr;
  void* pool = nullptr;
};

// Y [rows, N] of x.type = X [rows, K] times the weight. `y` must not overlap anything else. Safe to call from several
// threads at once. Results do not depend on the number of threads. Throws std::bad_alloc, and std::invalid_argument
// where results are not finite because a factor in a block is not.
void multiply(const Weight& weight, const Activations& x, std::int64_t rows, void* y, const ParallelFor& parallel);

}  // namespace dualbinary
