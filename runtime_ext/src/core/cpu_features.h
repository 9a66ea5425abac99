// Instruction sets that this CPU and operating system can run, detected once.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernel.h"

namespace dualbinary {

// True if every instruction of `isa` works here: the CPU has it and the operating system saves its registers.
bool cpu_has(Isa isa);

// "scalar", "avx2", "avxvnni", "avx512", "neon", "i8mm": the names that DUALBINARY_ISA and describe() use.
const char* isa_name(Isa isa);

// Names of the detected features that kernels depend on, for bug reports; empty on CPUs that have no kernels.
const std::vector<std::string>& cpu_features();

}  // namespace dualbinary
