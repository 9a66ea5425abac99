#include "cuda/halves.h"
#include "cuda/prefill_launch.h"

namespace dualbinary::cuda {
namespace {

constexpr std::int64_t kStrideMultiple = 8;  // halves in the 16 bytes of a copy

std::int64_t stride_of(const Call& call) {
  return (call.weight.K + kStrideMultiple - 1) / kStrideMultiple * kStrideMultiple;
}

std::size_t rounded_up(std::size_t bytes) { return (bytes + 255) / 256 * 256; }

std::size_t halves_bytes(const Call& call) {
  return rounded_up(static_cast<std::size_t>(tokens_of(call)) * static_cast<std::size_t>(stride_of(call)) * 2);
}

}  // namespace

std::size_t halves_workspace(const Call& call) {
  // ONNX Runtime's tensors are aligned to 256 bytes, so rows of a multiple of 16 bytes are as well.
  if (call.x.type == Type::kFloat16 && call.weight.K % kStrideMultiple == 0) return 0;
  return halves_bytes(call) + rounded_up(static_cast<std::size_t>(call.x.rows) * 4);
}

HalfRows make_halves(const Call& call) {
  if (halves_workspace(call) == 0) {
    if (reinterpret_cast<std::uintptr_t>(call.x.data) % 16 != 0) {
      throw std::invalid_argument("x: expected an address that is a multiple of 16, for more than 16 float16 rows");
    }
    return {static_cast<const std::uint16_t*>(call.x.data), call.weight.K, call.x.rows, false, nullptr};
  }
  auto* data = reinterpret_cast<std::uint16_t*>(call.workspace);
  auto* row_scale = reinterpret_cast<float*>(call.workspace + halves_bytes(call));
  const int tokens = tokens_of(call);
  const bool split = tokens != call.x.rows;
  simt::launch(prepare_halves,
               {{static_cast<unsigned>(call.x.rows)}, kHalvesThreads, kHalvesThreads / simt::kLanes * 4, call.stream},
               call.x, call.weight.K, stride_of(call), split, data, row_scale);
  return {data, stride_of(call), tokens, split, row_scale};
}

}  // namespace dualbinary::cuda
