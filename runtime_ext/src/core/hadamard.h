// SignedHadamard: checks, choice of a kernel, and threads. See kernels/hadamard.h for what it computes.
#pragma once

#include <cstdint>

#include "core/parallel.h"
#include "kernels/hadamard.h"
#include "kernels/kernel.h"

namespace dualbinary {

// A transform as its owner describes it. Nothing in it can be trusted.
struct Hadamard {
  std::int64_t K;
  std::int64_t block_size;
  std::int64_t inverse;
};

// All of these throw std::invalid_argument: for the attributes, for K beside them, and for signs [K] other than 1, -1.
void check_block(const Hadamard& hadamard);
void check_inputs(const Hadamard& hadamard);
void check_signs(const Hadamard& hadamard, const std::int8_t* signs);

// Y [rows, K] of x.type = the transform of X [rows, K]. `hadamard` and signs [K] have passed the checks; `y` must not
// overlap anything else. Safe to call from several threads at once. Results do not depend on the number of threads, or
// on the kernel. Throws std::bad_alloc.
void signed_hadamard(const HadamardKernel& kernel, const Hadamard& hadamard, const std::int8_t* signs,
                     const Activations& x, std::int64_t rows, void* y, const ParallelFor& parallel);

}  // namespace dualbinary
