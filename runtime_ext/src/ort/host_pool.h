// ONNX Runtime's intra-op pool as a ParallelFor.
#pragma once

#include <cstddef>

#include "core/parallel.h"
#include "onnxruntime_c_api.h"
#include "ort/status.h"

#if defined(__SANITIZE_THREAD__)
#define DUALBINARY_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define DUALBINARY_THREAD_SANITIZER 1
#endif
#endif

#if defined(DUALBINARY_THREAD_SANITIZER)
extern "C" void __tsan_acquire(void* address);
extern "C" void __tsan_release(void* address);
#endif

namespace dualbinary {

// Of one call.
struct HostPool {
  const OrtApi& api;
  const OrtKernelContext* context;

  ParallelFor loop() { return {run, this}; }

#if defined(DUALBINARY_THREAD_SANITIZER)
  // A loop of the host begins after what its caller did before, and ends before what the caller does next. The host is
  // not instrumented, so that the sanitizer has to be told.
  struct Told {
    void (*task)(void*, std::size_t);
    void* data;
  };

  static void run(void* pool, void (*task)(void*, std::size_t), void* data, std::size_t count) {
    Told told{task, data};
    __tsan_release(&told);
    const auto tell = [](void* at, std::size_t index) {
      __tsan_acquire(at);
      static_cast<Told*>(at)->task(static_cast<Told*>(at)->data, index);
      __tsan_release(at);
    };
    run_host(pool, tell, &told, count);
    __tsan_acquire(&told);
  }
#else
  static void run(void* pool, void (*task)(void*, std::size_t), void* data, std::size_t count) {
    run_host(pool, task, data, count);
  }
#endif

  static void run_host(void* pool, void (*task)(void*, std::size_t), void* data, std::size_t count) {
    const auto& host = *static_cast<HostPool*>(pool);
    // 0 batches: every index is a task by itself.
    check(host.api, host.api.KernelContext_ParallelFor(host.context, task, count, 0, data));
  }
};

}  // namespace dualbinary
