// Declarations of the kernels of the inventory.
#pragma once

#include "kernels/kernel.h"

namespace dualbinary {

#define DUALBINARY_KERNEL(symbol) extern const MatMulKernel symbol;
#include "kernels/kernels.inc"
#undef DUALBINARY_KERNEL

}  // namespace dualbinary
