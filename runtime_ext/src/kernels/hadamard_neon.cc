// SignedHadamard for NEON.
#include "simd/arm_neon.h"
// F32x16 comes first.
#include "kernels/hadamard-inl.h"
#include "kernels/inventory.h"

namespace dualbinary {

constinit const HadamardKernel hadamard_neon = {"hadamard_neon", Isa::kNeon, transform_any};

}  // namespace dualbinary
