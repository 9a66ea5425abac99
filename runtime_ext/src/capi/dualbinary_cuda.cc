#include "capi/dualbinary_cuda.h"

#include <climits>
#include <memory>
#include <stdexcept>
#include <string>

#include "capi/guarded.h"
#include "capi/spec.h"
#include "contract.h"
#include "core/codes.h"
#include "core/json.h"
#include "core/memory.h"
#include "core/spec.h"
#include "cuda/device.h"
#include "cuda/inventory.h"
#include "cuda/weight.h"

struct dualbinary_cuda_weight {
  dualbinary::cuda::DeviceWeight weight;
};

namespace {

using namespace dualbinary;

using capi::require;
using capi::require_bytes;

thread_local std::string last_json;

template <class Body>
const char* guarded(const Body& body) {
  return capi::guarded("out of device memory", body);
}

cuda::Type activation_type(std::int32_t type) {
  switch (type) {
    case DUALBINARY_FLOAT32:
      return cuda::Type::kFloat32;
    case DUALBINARY_FLOAT16:
      return cuda::Type::kFloat16;
    case DUALBINARY_BFLOAT16:
      return cuda::Type::kBfloat16;
    default:
      throw std::invalid_argument("type: expected 0 (float32), 1 (float16) or 3 (bfloat16), got " +
                                  std::to_string(type));
  }
}

std::unique_ptr<dualbinary_cuda_weight> create(const dualbinary_spec& s, const void* planes, std::size_t planes_size,
                                               const void* scales, std::size_t scales_size, std::int32_t device) {
  const Shape shape = checked_shape(capi::from_c(s));
  check_cuda_limits(shape);
  require_bytes("planes", planes, planes_size, planes_bytes(shape));
  require_bytes("scales", scales, scales_size, scales_bytes(shape));
  Stored stored{static_cast<const std::uint8_t*>(planes), scales};
  Buffer converted;  // until the device has packed it
  if (shape.layout == contract::kLayoutCodes) {
    converted = plain_planes(shape, stored.planes);
    stored.planes = converted.get();
  }
  return std::make_unique<dualbinary_cuda_weight>(
      dualbinary_cuda_weight{cuda::DeviceWeight(plain_shape(shape), stored, cuda::device(device))});
}

cuda::Call call_of(const dualbinary_cuda_weight* weight, std::int32_t type, std::int64_t rows) {
  require(weight != nullptr, "weight is NULL");
  require(rows >= 0 && rows <= INT_MAX / 2,
          "rows: expected 0 to " + std::to_string(INT_MAX / 2) + ", got " + std::to_string(rows));
  cuda::Call call = weight->weight.call();
  call.x = {nullptr, activation_type(type), static_cast<int>(rows), false};
  return call;
}

using json::quoted;

std::string row_json(const cuda::InventoryRow& row) {
  return json::object({{"name", quoted(row.kernel->name)},
                       {"max_rows", std::to_string(row.kernel->max_rows)},
                       {"min_capability", std::to_string(row.min_capability)},
                       {"max_capability", std::to_string(row.max_capability)}});
}

std::string device_json(const cuda::Device& device) {
  return json::object({{"index", std::to_string(device.index)},
                       {"name", quoted(device.name)},
                       {"compute_capability", std::to_string(device.capability)},
                       {"multiprocessors", std::to_string(device.multiprocessors)},
                       {"memory", std::to_string(device.memory)}});
}

std::string describe() {
  std::string error;
  const auto devices = cuda::devices(error);
  return json::object(
      {{"version", quoted(DUALBINARY_VERSION)},
       {"digest", quoted(contract::kDigest)},
       {"emulated", json::boolean(cuda::kEmulated)},
       {"architectures", json::array(cuda::architectures(), [](int each) { return std::to_string(each); })},
       {"kernels", json::array(cuda::inventory(), row_json)},
       {"devices", json::array(devices, device_json)},
       {"error", error.empty() ? "null" : quoted(error)}});
}

void multiply(const dualbinary_cuda_weight* weight, cuda::Call call, std::size_t workspace_bytes, const char* name) {
  require(call.x.data != nullptr && call.y != nullptr, "x or y is NULL");
  const cuda::CudaKernel& kernel = weight->weight.kernel(name, call);
  const std::size_t needed = kernel.workspace(call);
  require(workspace_bytes >= needed,
          "workspace: expected " + std::to_string(needed) + " bytes or more, got " + std::to_string(workspace_bytes));
  require(needed == 0 || (call.workspace != nullptr &&
                          reinterpret_cast<std::uintptr_t>(call.workspace) % contract::kCudaWorkspaceAlignment == 0),
          "workspace: expected an address that is a multiple of " + std::to_string(contract::kCudaWorkspaceAlignment));
  const cuda::DeviceScope scope(weight->weight.device().index);
  kernel.launch(call);
}

}  // namespace

const char* dualbinary_cuda_version(void) { return DUALBINARY_VERSION; }

const char* dualbinary_cuda_digest(void) { return dualbinary::contract::kDigest; }

const char* dualbinary_cuda_describe(const char** json) {
  return guarded([&] {
    require(json != nullptr, "json is NULL");
    last_json = describe();
    *json = last_json.c_str();
  });
}

const char* dualbinary_cuda_weight_create(const dualbinary_spec* spec, const void* planes, size_t planes_bytes,
                                          const void* scales, size_t scales_bytes, int32_t device,
                                          dualbinary_cuda_weight** weight) {
  return guarded([&] {
    require(spec != nullptr, "spec is NULL");
    require(weight != nullptr, "weight is NULL");
    *weight = create(*spec, planes, planes_bytes, scales, scales_bytes, device).release();
  });
}

void dualbinary_cuda_weight_destroy(dualbinary_cuda_weight* weight) { delete weight; }

size_t dualbinary_cuda_weight_bytes(const dualbinary_cuda_weight* weight) { return weight->weight.bytes(); }

const char* dualbinary_cuda_kernel(const dualbinary_cuda_weight* weight, int32_t type, int64_t rows) {
  const char* name = nullptr;
  (void)guarded([&] {
    const dualbinary::cuda::Call call = call_of(weight, type, rows);
    if (call.x.rows > 0) name = weight->weight.kernel(nullptr, call).name;
  });
  return name;
}

const char* dualbinary_cuda_workspace(const dualbinary_cuda_weight* weight, int32_t type, int64_t rows,
                                      const char* kernel, size_t* bytes) {
  return guarded([&] {
    require(bytes != nullptr, "bytes is NULL");
    const dualbinary::cuda::Call call = call_of(weight, type, rows);
    *bytes = call.x.rows == 0 ? 0 : weight->weight.kernel(kernel, call).workspace(call);
  });
}

const char* dualbinary_cuda_multiply(const dualbinary_cuda_weight* weight, const void* x, int32_t type, int64_t rows,
                                     void* y, void* workspace, size_t workspace_bytes, void* stream,
                                     const char* kernel) {
  return guarded([&] {
    dualbinary::cuda::Call call = call_of(weight, type, rows);
    if (call.x.rows == 0) return;
    call.x.data = x;
    const std::uintptr_t pair_bytes = call.x.type == dualbinary::cuda::Type::kFloat32 ? 8 : 4;
    call.x.pairs = call.weight.K % 2 == 0 && reinterpret_cast<std::uintptr_t>(x) % pair_bytes == 0;
    call.y = y;
    call.workspace = static_cast<std::uint8_t*>(workspace);
    call.stream = stream;
    multiply(weight, call, workspace_bytes, kernel);
  });
}
