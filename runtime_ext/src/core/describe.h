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
//   kernels           the inventory, fastest first: name, isa, accuracy_level, even_levels (it serves them), min_rows
//   (of
//                     a call that gets it), layout (the stored layout that it takes as it is), available
//   layouts           stored layouts that can be read here
//   chosen            accuracy_level -> name of the kernel that a new weight gets
//   packed            packed weights in use: copies, which equal weights share, and bytes
// Throws std::invalid_argument where DUALBINARY_ISA asks for what is not there.
std::string describe();

}  // namespace dualbinary
