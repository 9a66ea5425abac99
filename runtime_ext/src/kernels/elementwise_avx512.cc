// Norms, activations and sums for AVX-512.
#include "simd/x86_avx512.h"
// F32x16 comes first.
#include "kernels/elementwise-inl.h"
#include "kernels/inventory.h"

namespace dualbinary {

constinit const ElementwiseKernel elementwise_avx512 = {"elementwise_avx512", Isa::kAvx512, load_any,
                                                        rms_norm_any,         gate_any,     add_any};

}  // namespace dualbinary
