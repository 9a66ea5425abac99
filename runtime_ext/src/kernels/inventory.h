// Declarations of the kernels of the inventory.
#pragma once

#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/hadamard.h"
#include "kernels/kernel.h"

namespace dualbinary {

#define DUALBINARY_KERNEL(symbol) extern const MatMulKernel symbol;
#define DUALBINARY_HADAMARD(symbol) extern const HadamardKernel symbol;
#define DUALBINARY_ELEMENTWISE(symbol) extern const ElementwiseKernel symbol;
#define DUALBINARY_ATTENTION(symbol) extern const AttentionKernel symbol;
#include "kernels/kernels.inc"

}  // namespace dualbinary
