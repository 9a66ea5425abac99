// SignedHadamard for AVX-512.
#include "simd/x86_avx512.h"
// F32x16 comes first.
#include "kernels/hadamard-inl.h"
#include "kernels/inventory.h"

namespace dualbinary {

constinit const HadamardKernel hadamard_avx512 = {"hadamard_avx512", Isa::kAvx512, transform_any};

}  // namespace dualbinary
