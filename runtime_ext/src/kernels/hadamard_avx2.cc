// SignedHadamard for AVX2.
#include "simd/x86_avx2.h"
// F32x16 comes first.
#include "kernels/hadamard-inl.h"
#include "kernels/inventory.h"

namespace dualbinary {

constinit const HadamardKernel hadamard_avx2 = {"hadamard_avx2", Isa::kAvx2, transform_any};

}  // namespace dualbinary
