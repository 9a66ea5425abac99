#include "cuda/decode_launch.h"
#include "cuda/decode_s8.h"
#include "cuda/inventory.h"

namespace dualbinary::cuda {
namespace {

// From here on it is cheaper to make the operands once than in every block.
constexpr int kRowsToPrepare = 5;

std::size_t operand_words(const Call& call) {
  const std::size_t blocks = call.x.rows > 8 ? 2 : 1;
  const std::size_t sets = call.accuracy_level == 0 ? 2 : 1;
  return static_cast<std::size_t>(call.weight.input_tiles) * sets * 2 * 8 * blocks * 4 * kParts;
}

std::size_t workspace(const Call& call) {
  if (call.x.rows < kRowsToPrepare) return 0;
  const std::size_t steps = static_cast<std::size_t>(call.weight.input_tiles) * (call.x.rows > 8 ? 16 : 8);
  return 4 * (operand_words(call) + steps);
}

template <class Method>
void launch_method(const Call& call) {
  if (call.x.rows < kRowsToPrepare) return launch_decode<Method>(call, nullptr, nullptr);
  auto* operands = reinterpret_cast<std::uint32_t*>(call.workspace);
  auto* steps = reinterpret_cast<float*>(operands + operand_words(call));
  const auto units = static_cast<std::int64_t>(Method::kRows) * call.weight.input_tiles * 4;
  const auto blocks = static_cast<unsigned>((units + kDecodeThreads - 1) / kDecodeThreads);
  simt::launch(prepare_operands<Method>, {{blocks}, kDecodeThreads, 0, call.stream}, call.x, call.weight.K,
               call.weight.input_tiles, operands, steps);
  launch_decode<Method>(call, operands, steps);
}

template <int P, int kSets>
void launch_rows(const Call& call) {
  call.x.rows <= 8 ? launch_method<ByteMethod<P, kSets, 1>>(call) : launch_method<ByteMethod<P, kSets, 2>>(call);
}

void launch(const Call& call) {
  for_planes(call.weight.P,
             [&]<int P>() { call.accuracy_level == 0 ? launch_rows<P, 2>(call) : launch_rows<P, 1>(call); });
}

}  // namespace

const Kernel decode_s8 = {.name = "decode_s8",
                          .min_rows = 1,
                          .max_rows = 16,
                          .min_capability = 80,
                          .max_capability = 129,
                          .workspace = workspace,
                          .launch = launch};

}  // namespace dualbinary::cuda
