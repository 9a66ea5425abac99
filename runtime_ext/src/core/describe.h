// Description of this build and of its choices on this machine.
#pragma once

#include <string>

namespace dualbinary {

// The project's version, as CMake knows it.
const char* version();

// One JSON object:
//   version, digest   of the library and of the contract it was built with
//   cpu_features      detected features that kernels depend on
//   forced_isa        value of DUALBINARY_ISA, or null
//   kernels           the inventory, fastest first: name, isa, accuracy_level, free_levels and even_levels (which it
//                     serves), packed_as (the kernel whose calls of many rows it takes, or null), layout (the stored
//                     layout that it takes as it is), available
//   hadamard_kernels  those of SignedHadamard, fastest first: name, isa, available
//   layouts           stored layouts that can be read here
//   chosen            accuracy_level -> name of the kernel that a new weight gets
//   packed            packed weights in use: copies, which equal weights share, and bytes
// Throws std::invalid_argument where DUALBINARY_ISA asks for what is not there.
std::string describe();

}  // namespace dualbinary
