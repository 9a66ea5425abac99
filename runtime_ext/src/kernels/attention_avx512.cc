// Attention for AVX-512.
#include "simd/x86_avx512.h"

namespace dualbinary {
namespace {

constexpr int kScoreRows = 6;
constexpr int kScoreVectors = 2;
constexpr int kValueRows = 4;
constexpr int kValueVectors = 4;

}  // namespace
}  // namespace dualbinary

// F32x16 and the constants come first.
#include "kernels/attention-inl.h"
#include "kernels/inventory.h"

namespace dualbinary {

constinit const AttentionKernel attention_avx512 = {"attention_avx512", Isa::kAvx512, rotate_any, store_any, few_any,
                                                    pack_any,           many_any};

}  // namespace dualbinary
