#include "ort/cuda_op.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

#include "capi/spec.h"
#include "contract.h"
#include "core/memory.h"
#include "core/spec.h"
#include "ort/cuda_library.h"
#include "ort/custom_op.h"
#include "ort/status.h"

namespace dualbinary {
namespace {

constexpr std::size_t kWorkspaceAlignment = contract::kCudaWorkspaceAlignment;

void check_call(const char* message) {
  if (message != nullptr) throw std::runtime_error(message);
}

// Memory of the provider: the device that it is on, and scratch memory of one call.
class DeviceMemory {
 public:
  DeviceMemory(const OrtApi& api, const OrtKernelInfo* info) : api_(api), allocator_(nullptr, api.ReleaseAllocator) {
    OrtAllocator* allocator = nullptr;
    check(api, api.KernelInfoGetAllocator(info, OrtMemTypeDefault, &allocator));
    allocator_.reset(allocator);
    check(api, api.AllocatorGetInfo(allocator, &info_));
  }

  // The device that the session runs this node on. The provider's options could say so too, but a custom op does not
  // see them; and what the weight needs is the device of X and Y, which is the one of this memory.
  std::int32_t device() const {
    int id = 0;
    check(api_, api_.MemoryInfoGetId(info_, &id));
    return id;
  }

  // Memory in the order of the session's stream: what is given back may be used again by work that is enqueued later,
  // so no call has to wait for the device.
  void* take(const OrtKernelContext* context, std::size_t bytes) const {
    void* memory = nullptr;
    check(api_, api_.KernelContext_GetScratchBuffer(context, info_, bytes, &memory));
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
  }

  void give_back(void* memory) const {
    if (OrtStatus* failed = api_.AllocatorFree(allocator_.get(), memory)) api_.ReleaseStatus(failed);
  }

 private:
  const OrtApi& api_;
  Owned<OrtAllocator> allocator_;
  const OrtMemoryInfo* info_ = nullptr;  // the allocator's
};

// Workspace of one call; none where `bytes` is 0.
class Workspace {
 public:
  Workspace(const DeviceMemory& memory, const OrtKernelContext* context, std::size_t bytes) : memory_(memory) {
    if (bytes == 0) return;
    // Not every allocator that a session may be given aligns as much.
    std::size_t space = bytes + kWorkspaceAlignment - 1;
    taken_ = memory.take(context, space);
    aligned_ = taken_;
    std::align(kWorkspaceAlignment, bytes, aligned_, space);
  }
  ~Workspace() {
    if (taken_ != nullptr) memory_.give_back(taken_);
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  void* data() const { return aligned_; }

 private:
  const DeviceMemory& memory_;
  void* taken_ = nullptr;
  void* aligned_ = nullptr;
};

class CudaNodeKernel : public NodeKernel {
 public:
  explicit CudaNodeKernel(const Node& node)
      : library_(cuda_library()), memory_(node.api, node.info), weight_(nullptr, library_.weight_destroy) {
    const dualbinary_spec spec = capi::to_c(node.shape);
    const auto planes = static_cast<std::size_t>(planes_bytes(node.shape));
    const auto scales = static_cast<std::size_t>(scales_bytes(node.shape));
    dualbinary_cuda_weight* weight = nullptr;
    check_call(library_.weight_create(&spec, node.stored.planes, planes, node.stored.scales, scales, memory_.device(),
                                      &weight));
    weight_.reset(weight);
    // The device's copy is all that products read.
    release_file_pages(node.stored.planes, planes);
    release_file_pages(node.stored.scales, scales);
  }

  // Enqueues and returns: waiting for the device here would forbid the capture of the session into a graph.
  void multiply(const Call& call) const override {
    const auto type = static_cast<std::int32_t>(call.x.type);
    void* stream = nullptr;
    check(call.api, call.api.KernelContext_GetGPUComputeStream(call.context, &stream));
    std::size_t bytes = 0;
    check_call(library_.workspace(weight_.get(), type, call.rows, nullptr, &bytes));
    const Workspace workspace(memory_, call.context, bytes);
    check_call(library_.multiply(weight_.get(), call.x.data, type, call.rows, call.y, workspace.data(), bytes, stream,
                                 nullptr));
  }

 private:
  const CudaLibrary& library_;
  DeviceMemory memory_;
  std::unique_ptr<dualbinary_cuda_weight, void (*)(dualbinary_cuda_weight*)> weight_;
};

std::unique_ptr<NodeKernel> create(const Node& node) {
  check_cuda_limits(node.shape);
  check_factors(node.shape, node.stored.scales);
  return std::make_unique<CudaNodeKernel>(node);
}

}  // namespace

std::vector<const OrtCustomOp*> new_cuda_ops(const OrtApi& api, const char* provider) {
  // The stored weight stays with the host, so that a device holds one copy: the packed one.
  return new_custom_ops(api, provider, OrtMemTypeCPUInput, [](ONNXTensorElementDataType) { return create; });
}

}  // namespace dualbinary
