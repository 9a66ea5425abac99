// The C API of the transform: sizes, signs, kernels by name; all kernels give the same bits.
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "capi/dualbinary.h"
#include "core/dispatch.h"
#include "defect.h"
#include "kernels/exact.h"
#include "products.h"

namespace {

using namespace dualbinary::fuzz;

constexpr std::uint8_t kFills[] = {0xAA, 0x55};

void backwards(void*, dualbinary_task task, void* data, std::size_t count) {
  while (count-- > 0) task(data, count);
}

// Two numbers that are none may have other bits.
bool same_numbers(bool half, const std::vector<std::uint8_t>& a, const std::vector<std::uint8_t>& b) {
  const auto type = half ? dualbinary::Element::kFloat16 : dualbinary::Element::kFloat32;
  const auto count = static_cast<std::int64_t>(a.size() / (half ? sizeof(std::uint16_t) : sizeof(float)));
  for (std::int64_t i = 0; i < count; ++i) {
    const double one = dualbinary::load_element(a.data(), type, i);
    const double other = dualbinary::load_element(b.data(), type, i);
    if (one != other && !(std::isnan(one) && std::isnan(other))) return false;
  }
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Bytes bytes(data, size);
  const std::int64_t block = bytes.power();
  const std::int64_t K = block * (1 + bytes.below(3));
  const std::int64_t rows = bytes.below(7);
  const bool half = bytes.flag();
  const auto type = half ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  const auto x = new_tensor(bytes, type, {rows, K});
  const auto noise = new_tensor(bytes, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, {K});
  if (!x || !noise) return 0;
  std::vector<std::int8_t> signs(static_cast<std::size_t>(K));
  for (std::size_t i = 0; i < signs.size(); ++i) signs[i] = (noise->data[i] & 1) == 0 ? 1 : -1;
  if (bytes.rarely()) signs[static_cast<std::size_t>(bytes.below(K))] = static_cast<std::int8_t>(bytes.byte());
  // More inputs than there are signs would be the caller's lie about memory; fewer, or sizes of no memory, are checked.
  dualbinary_hadamard hadamard{K, block, bytes.below(2)};
  if (bytes.rarely()) hadamard.block_size = bytes.edge();
  if (bytes.rarely()) hadamard.inverse = bytes.edge();
  if (bytes.rarely()) {
    hadamard.K = bytes.flag() ? bytes.pick<std::int64_t>({0, -1, std::numeric_limits<std::int64_t>::max(),
                                                          std::numeric_limits<std::int64_t>::min(), 1LL << 40})
                              : 1 + bytes.below(K);
  }
  const std::int32_t given =
      bytes.rarely() ? static_cast<std::int32_t>(bytes.edge()) : (half ? DUALBINARY_FLOAT16 : DUALBINARY_FLOAT32);
  const std::int64_t given_rows = bytes.rarely() ? -1 - bytes.below(3) : rows;
  const bool matches = given == (half ? DUALBINARY_FLOAT16 : DUALBINARY_FLOAT32);
  if (!matches && (given == DUALBINARY_FLOAT16 || given == DUALBINARY_FLOAT32)) return 0;
  std::vector<std::uint8_t> outputs[2];
  std::string errors[2];
  const auto all = dualbinary::hadamard_inventory();
  for (int i = 0; i < 2; ++i) {
    outputs[i].assign(x->bytes, kFills[i]);
    const char* kernel =
        i == 0 ? nullptr : all[static_cast<std::size_t>(bytes.below(static_cast<std::int64_t>(all.size())))]->name;
    const char* error = dualbinary_signed_hadamard(&hadamard, signs.data(), kernel, x->data, given, given_rows,
                                                   outputs[i].data(), i == 0 ? nullptr : backwards, nullptr);
    errors[i] = error == nullptr ? "" : error;
  }
  if (!errors[0].empty() || !errors[1].empty()) return 0;
  if (hadamard.K == K && !same_numbers(half, outputs[0], outputs[1])) defect("two kernels differ");
  return 0;
}
