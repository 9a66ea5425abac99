// Norms, activations and sums for NEON.
#include "simd/arm_neon.h"
// F32x16 comes first.
#include "kernels/elementwise-inl.h"
#include "kernels/inventory.h"

namespace dualbinary {

constinit const ElementwiseKernel elementwise_neon = {"elementwise_neon", Isa::kNeon, load_any,
                                                      rms_norm_any,       gate_any,   add_any};

}  // namespace dualbinary
