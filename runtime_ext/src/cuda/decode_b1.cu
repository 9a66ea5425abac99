#include "cuda/decode_b1.h"
#include "cuda/decode_launch.h"
#include "cuda/inventory.h"

namespace dualbinary::cuda {
namespace {

// Calls body.operator()<Mma, prepared>() for what the call needs.
template <class Body>
auto for_mma(const Call& call, const Body& body) {
  return for_planes(call.weight.P, [&]<int P>() {
    const auto for_rows = [&]<int kSets>() {
      using One = BinaryMma<P, kSets, 1>;
      if (call.x.rows > 2) return body.template operator()<BinaryMma<P, kSets, 4>, true>();
      if (call.x.rows == 2) return body.template operator()<BinaryMma<P, kSets, 2>, true>();
      return fits_shared<One>(call.weight) ? body.template operator()<One, false>()
                                           : body.template operator()<One, true>();
    };
    return call.accuracy_level == 0 ? for_rows.template operator()<2>() : for_rows.template operator()<1>();
  });
}

bool suits(const Call& call) { return call.x.rows <= 4; }

std::size_t workspace(const Call& call) {
  return for_mma(
      call, [&]<class Mma, bool kPrepared>() { return kPrepared ? operand_bytes<Mma>(call.weight) : std::size_t{0}; });
}

void launch(const Call& call) {
  for_mma(call, [&]<class Mma, bool kPrepared>() { launch_decode<Mma, kPrepared>(call); });
}

}  // namespace

const CudaKernel decode_b1 = {
    .name = "decode_b1", .max_rows = 4, .suits = suits, .workspace = workspace, .launch = launch};

}  // namespace dualbinary::cuda
