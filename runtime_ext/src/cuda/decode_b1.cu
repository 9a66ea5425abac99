#include "cuda/decode_b1.h"
#include "cuda/decode_launch.h"
#include "cuda/inventory.h"

namespace dualbinary::cuda {
namespace {

// Calls body.operator()<Method, prepared>() for what the call needs.
template <class Body>
auto for_method(const Call& call, const Body& body) {
  return for_planes(call.weight.P, [&]<int P>() {
    const auto for_rows = [&]<int kSets>() {
      using One = BinaryMethod<P, kSets, 1>;
      if (call.x.rows > 2) return body.template operator()<BinaryMethod<P, kSets, 4>, true>();
      if (call.x.rows == 2) return body.template operator()<BinaryMethod<P, kSets, 2>, true>();
      return fits_shared<One>(call.weight) ? body.template operator()<One, false>()
                                           : body.template operator()<One, true>();
    };
    return call.accuracy_level == 0 ? for_rows.template operator()<2>() : for_rows.template operator()<1>();
  });
}

bool suits(const Call& call) { return call.x.rows <= 4; }

std::size_t workspace(const Call& call) {
  return for_method(call, [&]<class Method, bool kPrepared>() {
    return kPrepared ? operand_bytes<Method>(call.weight) : std::size_t{0};
  });
}

void launch(const Call& call) {
  for_method(call, [&]<class Method, bool kPrepared>() { launch_decode<Method, kPrepared>(call); });
}

}  // namespace

const Kernel decode_b1 = {.name = "decode_b1",
                          .max_rows = 4,
                          .min_capability = 80,
                          .max_capability = 99,  // later ones emulate the instruction, slowly
                          .suits = suits,
                          .workspace = workspace,
                          .launch = launch};

}  // namespace dualbinary::cuda
