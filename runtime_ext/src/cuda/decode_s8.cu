#include "cuda/decode_launch.h"
#include "cuda/decode_s8.h"
#include "cuda/inventory.h"

namespace dualbinary::cuda {
namespace {

constexpr int kMaxRows = 16;

// Calls body.operator()<Method>() for what the call needs.
template <class Body>
auto for_method(const Call& call, const Body& body) {
  return for_planes(call.weight.P, [&]<int P>() {
    const auto for_rows = [&]<int kSets>() {
      return call.x.rows <= 8 ? body.template operator()<ByteMethod<P, kSets, 1>>()
                              : body.template operator()<ByteMethod<P, kSets, 2>>();
    };
    return call.accuracy_level == 0 ? for_rows.template operator()<2>() : for_rows.template operator()<1>();
  });
}

bool suits(const Call& call) { return call.x.rows <= kMaxRows; }

// Always prepared: eight rows are too much to make in every block.
std::size_t workspace(const Call& call) {
  return for_method(call, [&]<class Method>() { return operand_bytes<Method>(call.weight); });
}

void launch(const Call& call) {
  for_method(call, [&]<class Method>() { launch_decode<Method, true>(call); });
}

}  // namespace

const Kernel decode_s8 = {.name = "decode_s8",
                          .max_rows = kMaxRows,
                          .min_capability = 80,
                          .max_capability = 129,
                          .suits = suits,
                          .workspace = workspace,
                          .launch = launch};

}  // namespace dualbinary::cuda
