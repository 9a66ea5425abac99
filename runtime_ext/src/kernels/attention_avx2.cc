// Attention for AVX2.
#include "simd/x86_avx2.h"

namespace dualbinary {
namespace {

constexpr int kScoreRows = 6;
constexpr int kScoreVectors = 1;
constexpr int kValueRows = 2;
constexpr int kValueVectors = 2;

}  // namespace
}  // namespace dualbinary

// F32x16 and the constants come first.
#include "kernels/attention-inl.h"
#include "kernels/inventory.h"

namespace dualbinary {

constinit const AttentionKernel attention_avx2 = {"attention_avx2", Isa::kAvx2, rotate_any, store_any,
                                                  few_any,          pack_any,   many_any};

}  // namespace dualbinary
