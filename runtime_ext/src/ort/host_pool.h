// ONNX Runtime's intra-op pool as a ParallelFor.
#pragma once

#include <cstddef>

#include "core/parallel.h"
#include "onnxruntime_c_api.h"
#include "ort/status.h"

namespace dualbinary {

// Of one call.
struct HostPool {
  const OrtApi& api;
  const OrtKernelContext* context;

  ParallelFor loop() { return {run, this}; }

  static void run(void* pool, void (*task)(void*, std::size_t), void* data, std::size_t count) {
    const auto& host = *static_cast<HostPool*>(pool);
    // 0 batches: every index is a task by itself.
    check(host.api, host.api.KernelContext_ParallelFor(host.context, task, count, 0, data));
  }
};

}  // namespace dualbinary
