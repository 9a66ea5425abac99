// The C API of weights: specs, lengths of buffers that may lie, kernels by name, products of a few rows.
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "capi/dualbinary.h"
#include "capi/spec.h"
#include "core/dispatch.h"
#include "defect.h"
#include "products.h"

namespace {

using namespace dualbinary::fuzz;

constexpr std::int64_t kMostK = 300;
constexpr std::int64_t kMostN = 100;
constexpr std::uint8_t kFills[] = {0xAA, 0x55};

struct Destroy {
  void operator()(dualbinary_weight* weight) const { dualbinary_weight_destroy(weight); }
};
using Weight = std::unique_ptr<dualbinary_weight, Destroy>;

void backwards(void*, dualbinary_task task, void* data, std::size_t count) {
  while (count-- > 0) task(data, count);
}

// A length that a caller may claim: never more than there is, unless that is so much that no memory holds it.
std::size_t claimed(Bytes& bytes, std::size_t size) {
  if (!bytes.rarely()) return size;
  return bytes.flag() ? std::numeric_limits<std::size_t>::max() - bytes.byte() : size - size % (1 + bytes.byte());
}

const char* kernel_name(Bytes& bytes) {
  if (bytes.flag()) return nullptr;
  const auto all = dualbinary::inventory();
  if (bytes.rarely()) return "no such kernel";
  return all[static_cast<std::size_t>(bytes.below(static_cast<std::int64_t>(all.size())))]->name;
}

// Fails, or writes all of `y`.
std::string multiply(const dualbinary_weight* weight, const OrtValue& x, std::int32_t type, std::int64_t rows,
                     std::vector<std::uint8_t>& y, dualbinary_parallel_for parallel) {
  const char* error = dualbinary_multiply(weight, x.data, type, rows, y.data(), parallel, nullptr);
  return error == nullptr ? "" : error;
}

void check_products(Bytes& bytes, const dualbinary_weight* weight, const dualbinary::Spec& spec) {
  const bool half = bytes.flag();
  const std::int64_t rows = make_rows(bytes, spec, 5);
  const auto x_type = half ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  const auto x = new_tensor(bytes, x_type, {rows, spec.K});
  if (!x) return;
  const std::size_t y_bytes = static_cast<std::size_t>(rows * spec.N) * element_bytes(x_type);
  std::vector<std::uint8_t> first(y_bytes, kFills[0]);
  std::vector<std::uint8_t> second(y_bytes, kFills[1]);
  const std::int32_t type = half ? DUALBINARY_FLOAT16 : DUALBINARY_FLOAT32;
  if (bytes.rarely()) {  // refused before anything is read or written
    const std::int64_t wrong =
        bytes.pick<std::int64_t>({-1, std::numeric_limits<std::int64_t>::max(),
                                  std::numeric_limits<std::int64_t>::min(), std::int64_t{1} << 62});
    if (multiply(weight, *x, type, wrong, first, nullptr).empty()) defect("an impossible number of rows was taken");
    if (multiply(weight, *x, static_cast<std::int32_t>(2 + bytes.below(9)), rows, first, nullptr).empty())
      defect("a wrong type was taken");
  }
  const std::string error = multiply(weight, *x, type, rows, first, nullptr);
  if (error != multiply(weight, *x, type, rows, second, backwards)) defect("two equal products gave different errors");
  if (error.empty() && first != second) defect("two equal products differ");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Bytes bytes(data, size);
  const std::int64_t K = bytes.size(kMostK);
  const dualbinary::Spec spec = make_spec(bytes, K, make_outputs(bytes, K, kMostN));
  const auto scale_type = onnx_type(spec.scale_type);
  const auto planes = new_tensor(bytes, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, make_planes_dims(bytes, spec));
  auto scales = new_tensor(bytes, scale_type, make_scales_dims(bytes, spec));
  if (!planes || !scales) return 0;
  limit_factors(bytes, *scales);
  dualbinary_spec given = dualbinary::capi::to_c(spec);
  if (bytes.rarely()) given.scale_type = static_cast<std::int32_t>(bytes.edge());
  dualbinary_weight* made = nullptr;
  const std::size_t planes_bytes = claimed(bytes, planes->bytes);
  const std::size_t scales_bytes = claimed(bytes, scales->bytes);
  const char* error = dualbinary_weight_create(&given, bytes.rarely() ? nullptr : planes->data, planes_bytes,
                                               scales->data, scales_bytes, kernel_name(bytes), &made);
  if (error != nullptr) {
    if (made != nullptr || *error == '\0') defect("a failure without words, or with a weight");
    return 0;
  }
  const Weight weight(made);
  if (dualbinary_weight_bytes(made) == 0 || dualbinary_weight_kernel(made) == nullptr) defect("a weight of nothing");
  check_products(bytes, made, spec);
  return 0;
}
