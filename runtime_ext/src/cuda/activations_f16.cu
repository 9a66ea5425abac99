#include <stdexcept>

#include "contract.h"
#include "cuda/activations_f16.h"
#include "cuda/simt/simt.h"

namespace dualbinary::cuda {
namespace {

constexpr int kF16Threads = 256;

// One thread block for each row. `stride` is a multiple of 8 and at least K; the columns past K become zeros.
DUALBINARY_GLOBAL(kF16Threads, 2)
write_f16_rows(DUALBINARY_ARGUMENT Activations x, int K, std::int64_t stride, bool split, std::uint16_t* data,
               float* row_scale) {
  const std::int64_t row = simt::block_x();
  auto* of_warps = reinterpret_cast<float*>(simt::shared_memory());
  float largest = 0;
  for (int k = simt::thread(); k < K; k += kF16Threads) {
    const float value = load_value(x.data, x.type, row * K + k);
    const float magnitude = value < 0 ? -value : value;
    if (simt::finite(magnitude) && magnitude > largest) largest = magnitude;
  }
  for (int mask = 1; mask < simt::kLanes; mask *= 2) {
    const float other = simt::shuffle_xor(largest, mask);
    largest = other > largest ? other : largest;
  }
  if (simt::thread() % simt::kLanes == 0) of_warps[simt::thread() / simt::kLanes] = largest;
  simt::sync_block();
  for (int warp = 0; warp < kF16Threads / simt::kLanes; ++warp) {
    largest = of_warps[warp] > largest ? of_warps[warp] : largest;
  }
  // Both factors stay normal: exponents are kept between -112 and 126. A row of float16 is only copied.
  int exponent = 0;
  if (x.type != Type::kFloat16 && largest > 0) {
    exponent = simt::exponent_of(largest) - 14;
    exponent = exponent < -112 ? -112 : exponent;
  }
  const float inverse = simt::power_of_two(-exponent);
  for (int k = simt::thread(); k < stride; k += kF16Threads) {
    const float value = k < K ? load_value(x.data, x.type, row * K + k) * inverse : 0.0f;
    const std::uint16_t high = simt::float_to_f16(value);
    if (split) {
      data[2 * row * stride + k] = high;
      const float low = (value - simt::f16_to_float(high)) * kLowFactor;
      data[(2 * row + 1) * stride + k] = simt::float_to_f16(low);
    } else {
      data[row * stride + k] = high;
    }
  }
  if (simt::thread() == 0) row_scale[row] = simt::power_of_two(exponent);
}

constexpr std::int64_t kStrideMultiple = 8;  // values in the 16 bytes of a copy

std::int64_t stride_of(const Call& call) {
  return (call.weight.K + kStrideMultiple - 1) / kStrideMultiple * kStrideMultiple;
}

std::size_t rounded_up(std::size_t bytes) {
  constexpr std::size_t kMultiple = contract::kCudaWorkspaceAlignment;
  return (bytes + kMultiple - 1) / kMultiple * kMultiple;
}

std::size_t f16_bytes(const Call& call) {
  return rounded_up(static_cast<std::size_t>(tokens_of(call)) * static_cast<std::size_t>(stride_of(call)) * 2);
}

}  // namespace

std::size_t f16_workspace(const Call& call) {
  // ONNX Runtime's tensors are aligned to 256 bytes, so rows of a multiple of 16 bytes are as well.
  if (call.x.type == Type::kFloat16 && call.weight.K % kStrideMultiple == 0) return 0;
  return f16_bytes(call) + rounded_up(static_cast<std::size_t>(call.x.rows) * 4);
}

F16Rows make_f16_rows(const Call& call) {
  if (f16_workspace(call) == 0) {
    if (reinterpret_cast<std::uintptr_t>(call.x.data) % 16 != 0) {
      throw std::invalid_argument("x: expected an address that is a multiple of 16, for more than 16 float16 rows");
    }
    return {static_cast<const std::uint16_t*>(call.x.data), call.weight.K, call.x.rows, false, nullptr};
  }
  auto* data = reinterpret_cast<std::uint16_t*>(call.workspace);
  auto* row_scale = reinterpret_cast<float*>(call.workspace + f16_bytes(call));
  const int tokens = tokens_of(call);
  const bool split = tokens != call.x.rows;
  simt::launch(write_f16_rows,
               {{static_cast<unsigned>(call.x.rows)}, kF16Threads, kF16Threads / simt::kLanes * 4, call.stream}, call.x,
               call.weight.K, stride_of(call), split, data, row_scale);
  return {data, stride_of(call), tokens, split, row_scale};
}

}  // namespace dualbinary::cuda
