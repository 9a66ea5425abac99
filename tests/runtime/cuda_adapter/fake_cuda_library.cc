// libdualbinary_cuda without a GPU: computes each product by the exact kernel, holds its caller to the rules of
// dualbinary_cuda.h, and records what it was asked.
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "capi/dualbinary_cuda.h"
#include "capi/spec.h"
#include "contract.h"
#include "core/spec.h"
#include "kernels/exact.h"

using dualbinary::Element;

struct dualbinary_cuda_weight {
  std::int64_t number;
  dualbinary::Shape shape;
  std::vector<std::uint8_t> planes, scales;
};

namespace {

std::mutex mutex;  // of all that follows
std::string events;
std::string failing;
std::size_t asked_workspace = 0;
std::int64_t weights = 0;

thread_local std::string message;

template <class Body>
const char* guarded(const char* function, const Body& body) {
  try {
    {
      const std::lock_guard lock(mutex);
      if (failing == function) throw std::runtime_error(std::string("told to fail in ") + function);
    }
    body();
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

// {"call": "create", "device": 0, ..}, one to a line.
void record(const char* call, std::initializer_list<std::pair<const char*, std::int64_t>> fields) {
  std::string line = std::string("{\"call\": \"") + call + "\"";
  for (const auto& [name, value] : fields) line += std::string(", \"") + name + "\": " + std::to_string(value);
  const std::lock_guard lock(mutex);
  events += line + "}\n";
}

void require(bool condition, const char* rule) {
  if (!condition) throw std::logic_error(std::string("broken rule: ") + rule);
}

std::vector<float> widened(const std::uint16_t* values, std::int64_t count) {
  std::vector<float> result(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint32_t bits = static_cast<std::uint32_t>(values[i]) << 16;
    std::memcpy(&result[static_cast<std::size_t>(i)], &bits, sizeof(bits));
  }
  return result;
}

// To the nearest, ties to even.
std::uint16_t narrowed(float value) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof(bits));
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void multiply_rows(const dualbinary_cuda_weight& weight, const dualbinary::Activations& x, std::int64_t rows, void* y) {
  const dualbinary::Shape& shape = weight.shape;
  const dualbinary::Stored stored{weight.planes.data(), weight.scales.data()};
  std::vector<double> row(static_cast<std::size_t>(shape.groups * shape.group_size));
  const std::int64_t bytes = shape.N * (x.type == Element::kFloat32 ? 4 : 2);
  for (std::int64_t m = 0; m < rows; ++m) {
    dualbinary::exact_load_row(shape, x, m, row.data());
    void* out = static_cast<std::uint8_t*>(y) + m * bytes;
    dualbinary::exact_multiply(shape, stored, row.data(), out, x.type, 0, shape.N);
  }
}

void multiply_bfloat16(const dualbinary_cuda_weight& weight, const void* x, std::int64_t rows, void* y) {
  const std::vector<float> wide = widened(static_cast<const std::uint16_t*>(x), rows * weight.shape.K);
  std::vector<float> product(static_cast<std::size_t>(rows * weight.shape.N));
  multiply_rows(weight, {wide.data(), Element::kFloat32}, rows, product.data());
  for (std::size_t i = 0; i < product.size(); ++i) static_cast<std::uint16_t*>(y)[i] = narrowed(product[i]);
}

}  // namespace

extern "C" {

// For the tests: what was asked since the last call of this; the function that is to fail ("" for none) and the
// workspace that is to be asked for.
DUALBINARY_API const char* fake_cuda_library_events(void) {
  static std::string taken;
  const std::lock_guard lock(mutex);
  taken.swap(events);
  events.clear();
  return taken.c_str();
}

DUALBINARY_API void fake_cuda_library_set(const char* fail_in, std::size_t workspace) {
  const std::lock_guard lock(mutex);
  failing = fail_in;
  asked_workspace = workspace;
}

const char* dualbinary_cuda_digest(void) {
#if defined(FAKE_ANOTHER_CONTRACT)
  return "0123456789abcdef";
#else
  return dualbinary::contract::kDigest;
#endif
}

const char* dualbinary_cuda_weight_create(const dualbinary_spec* spec, const void* planes, size_t planes_bytes,
                                          const void* scales, size_t scales_bytes, int32_t device,
                                          dualbinary_cuda_weight** weight) {
  return guarded("create", [&] {
    const dualbinary::Shape shape = dualbinary::checked_shape(dualbinary::capi::from_c(*spec));
    dualbinary::check_cuda_limits(shape);
    require(planes_bytes == dualbinary::planes_bytes(shape) && scales_bytes == dualbinary::scales_bytes(shape),
            "sizes of planes and scales");
    const auto* p = static_cast<const std::uint8_t*>(planes);
    const auto* s = static_cast<const std::uint8_t*>(scales);
    std::int64_t number = 0;
    {
      const std::lock_guard lock(mutex);
      number = weights++;
    }
    *weight = new dualbinary_cuda_weight{number, shape, {p, p + planes_bytes}, {s, s + scales_bytes}};
    record("create", {{"weight", number},
                      {"device", device},
                      {"K", shape.K},
                      {"N", shape.N},
                      {"group_size", shape.group_size},
                      {"planes", shape.planes},
                      {"scale_rows", shape.scale_rows},
                      {"accuracy_level", spec->accuracy_level},
                      {"levels", spec->levels},
                      {"twice_zero", spec->twice_zero},
                      {"scale_outputs", spec->scale_outputs},
                      {"scale_type", spec->scale_type}});
  });
}

void dualbinary_cuda_weight_destroy(dualbinary_cuda_weight* weight) {
  if (weight == nullptr) return;
  record("destroy", {{"weight", weight->number}});
  delete weight;
}

const char* dualbinary_cuda_workspace(const dualbinary_cuda_weight* weight, int32_t type, int64_t rows,
                                      const char* kernel, size_t* bytes) {
  return guarded("workspace", [&] {
    require(kernel == nullptr, "the library chooses the kernel");
    record("workspace", {{"weight", weight->number}, {"type", type}, {"rows", rows}});
    const std::lock_guard lock(mutex);
    *bytes = asked_workspace;
  });
}

const char* dualbinary_cuda_multiply(const dualbinary_cuda_weight* weight, const void* x, int32_t type, int64_t rows,
                                     void* y, void* workspace, size_t workspace_bytes, void* stream,
                                     const char* kernel) {
  return guarded("multiply", [&] {
    require(kernel == nullptr, "the library chooses the kernel");
    require((workspace == nullptr) == (workspace_bytes == 0), "a workspace where one was asked for");
    require(reinterpret_cast<std::uintptr_t>(workspace) % dualbinary::contract::kCudaWorkspaceAlignment == 0,
            "alignment of the workspace");
    if (workspace != nullptr) std::memset(workspace, 0xff, workspace_bytes);
    record("multiply", {{"weight", weight->number},
                        {"type", type},
                        {"rows", rows},
                        {"workspace", static_cast<std::int64_t>(workspace_bytes)},
                        {"stream", static_cast<std::int64_t>(reinterpret_cast<std::intptr_t>(stream))}});
    if (type == DUALBINARY_BFLOAT16) {
      multiply_bfloat16(*weight, x, rows, y);
    } else {
      multiply_rows(*weight, {x, static_cast<Element>(type)}, rows, y);
    }
  });
}
}
