#include "cuda/decode_launch.h"
#include "cuda/decode_s8.h"
#include "cuda/inventory.h"

namespace dualbinary::cuda {
namespace {

constexpr int kMaxRows = 16;

// Calls body.operator()<Mma>() for what the call needs.
template <class Body>
auto for_mma(const Call& call, const Body& body) {
  return for_planes(call.weight.P, [&]<int P>() {
    const auto for_rows = [&]<int kSets>() {
      return call.x.rows <= 8 ? body.template operator()<ByteMma<P, kSets, 1>>()
                              : body.template operator()<ByteMma<P, kSets, 2>>();
    };
    return call.accuracy_level == 0 ? for_rows.template operator()<2>() : for_rows.template operator()<1>();
  });
}

bool suits(const Call& call) { return call.x.rows <= kMaxRows; }

// Always prepared: eight rows are too much to make in every thread block.
std::size_t workspace(const Call& call) {
  return for_mma(call, [&]<class Mma>() { return operand_bytes<Mma>(call.weight); });
}

void launch(const Call& call) {
  for_mma(call, [&]<class Mma>() { launch_decode<Mma, true>(call); });
}

}  // namespace

const CudaKernel decode_s8 = {
    .name = "decode_s8", .max_rows = kMaxRows, .suits = suits, .workspace = workspace, .launch = launch};

}  // namespace dualbinary::cuda
