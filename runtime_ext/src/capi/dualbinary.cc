#include "capi/dualbinary.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>

#include "capi/guarded.h"
#include "capi/spec.h"
#include "contract.h"
#include "core/describe.h"
#include "core/dispatch.h"
#include "core/hadamard.h"
#include "core/matmul.h"
#include "core/weight.h"

struct dualbinary_weight {
  dualbinary::Weight weight;
};

namespace {

using dualbinary::Element;
using dualbinary::capi::require;
using dualbinary::capi::require_bytes;

thread_local std::string last_json;

template <class Body>
const char* guarded(const Body& body) {
  return dualbinary::capi::guarded("out of memory", body);
}

Element element(const char* name, std::int32_t type) {
  require(type == DUALBINARY_FLOAT32 || type == DUALBINARY_FLOAT16,
          std::string(name) + ": expected type 0 (float32) or 1 (float16), got " + std::to_string(type));
  return static_cast<Element>(type);
}

// `width` is the longer of a row of x and one of y.
void require_rows(std::int64_t rows, std::int64_t width, const void* x, const void* y) {
  constexpr std::int64_t kLargestElement = 4;
  const std::int64_t most = PTRDIFF_MAX / kLargestElement / width;  // of what memory can hold
  require(rows >= 0 && rows <= most, "rows: expected 0 to " + std::to_string(most) + ", got " + std::to_string(rows));
  require(rows == 0 || (x != nullptr && y != nullptr), "x or y is NULL");
}

std::unique_ptr<dualbinary_weight> create(const dualbinary_spec& s, const void* planes, std::size_t planes_bytes,
                                          const void* scales, std::size_t scales_bytes, const char* kernel_name) {
  const dualbinary::Shape shape = dualbinary::checked_shape(dualbinary::capi::from_c(s));
  require_bytes("planes", planes, planes_bytes, dualbinary::planes_bytes(shape));
  require_bytes("scales", scales, scales_bytes, dualbinary::scales_bytes(shape));
  const dualbinary::MatMulKernel& kernel =
      kernel_name == nullptr ? dualbinary::choose_kernel(shape) : dualbinary::kernel_named(kernel_name, shape);
  const dualbinary::Stored stored{static_cast<const std::uint8_t*>(planes), scales};
  const dualbinary::MatMulKernel* many_rows =
      kernel_name == nullptr ? dualbinary::many_rows_kernel(kernel, shape) : nullptr;
  return std::make_unique<dualbinary_weight>(dualbinary_weight{dualbinary::Weight(shape, stored, kernel, many_rows)});
}

}  // namespace

const char* dualbinary_version(void) { return dualbinary::version(); }

const char* dualbinary_digest(void) { return dualbinary::contract::kDigest; }

const char* dualbinary_describe(const char** json) {
  return guarded([&] {
    require(json != nullptr, "json is NULL");
    last_json = dualbinary::describe();
    *json = last_json.c_str();
  });
}

const char* dualbinary_weight_create(const dualbinary_spec* spec, const void* planes, size_t planes_bytes,
                                     const void* scales, size_t scales_bytes, const char* kernel,
                                     dualbinary_weight** weight) {
  return guarded([&] {
    require(spec != nullptr, "spec is NULL");
    require(weight != nullptr, "weight is NULL");
    *weight = create(*spec, planes, planes_bytes, scales, scales_bytes, kernel).release();
  });
}

void dualbinary_weight_destroy(dualbinary_weight* weight) { delete weight; }

const char* dualbinary_weight_kernel(const dualbinary_weight* weight) { return weight->weight.kernel().name; }

size_t dualbinary_weight_bytes(const dualbinary_weight* weight) { return weight->weight.bytes(); }

const char* dualbinary_multiply(const dualbinary_weight* weight, const void* x, int32_t type, int64_t rows, void* y,
                                dualbinary_parallel_for parallel_for, void* pool) {
  return guarded([&] {
    require(weight != nullptr, "weight is NULL");
    const dualbinary::Shape& shape = weight->weight.shape();
    require_rows(rows, std::max(shape.K, shape.N), x, y);
    dualbinary::multiply(weight->weight, {x, element("type", type)}, rows, y, {parallel_for, pool});
  });
}

const char* dualbinary_signed_hadamard(const dualbinary_hadamard* hadamard, const int8_t* signs, const char* kernel,
                                       const void* x, int32_t type, int64_t rows, void* y,
                                       dualbinary_parallel_for parallel_for, void* pool) {
  return guarded([&] {
    require(hadamard != nullptr && signs != nullptr, "hadamard or signs is NULL");
    const dualbinary::Hadamard checked{hadamard->K, hadamard->block_size, hadamard->inverse};
    dualbinary::check_inputs(checked);
    dualbinary::check_signs(checked, signs);
    require_rows(rows, checked.K, x, y);
    dualbinary::signed_hadamard(
        kernel == nullptr ? dualbinary::choose_hadamard_kernel() : dualbinary::hadamard_kernel_named(kernel), checked,
        signs, {x, element("type", type)}, rows, y, {parallel_for, pool});
  });
}
