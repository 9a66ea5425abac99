// Norms, activations and sums for AVX2.
#include "simd/x86_avx2.h"
// F32x16 comes first.
#include "kernels/elementwise-inl.h"
#include "kernels/inventory.h"

namespace dualbinary {

constinit const ElementwiseKernel elementwise_avx2 = {"elementwise_avx2", Isa::kAvx2, load_any,
                                                      rms_norm_any,       gate_any,   add_any};

}  // namespace dualbinary
