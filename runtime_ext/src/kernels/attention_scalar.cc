// Attention for CPUs that no other kernel fits.
#include "kernels/generic-inl.h"

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

constinit const AttentionKernel attention_scalar = {"attention_scalar", Isa::kScalar, rotate_any, store_any, few_any,
                                                    pack_any,           many_any};

}  // namespace dualbinary
