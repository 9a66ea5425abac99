#include "cuda/decode_b1.h"
#include "cuda/decode_launch.h"
#include "cuda/inventory.h"

namespace dualbinary::cuda {
namespace {

template <int P, int kSets>
void launch_rows(const Call& call) {
  if (call.x.rows == 1) return launch_decode<BinaryMethod<P, kSets, 1>>(call, nullptr, nullptr);
  if (call.x.rows == 2) return launch_decode<BinaryMethod<P, kSets, 2>>(call, nullptr, nullptr);
  launch_decode<BinaryMethod<P, kSets, 4>>(call, nullptr, nullptr);
}

void launch(const Call& call) {
  for_planes(call.weight.P,
             [&]<int P>() { call.accuracy_level == 0 ? launch_rows<P, 2>(call) : launch_rows<P, 1>(call); });
}

}  // namespace

const Kernel decode_b1 = {.name = "decode_b1",
                          .min_rows = 1,
                          .max_rows = 4,
                          .min_capability = 80,
                          .max_capability = 99,  // later ones emulate the instruction, slowly
                          .workspace = [](const Call&) { return std::size_t{0}; },
                          .launch = launch};

}  // namespace dualbinary::cuda
