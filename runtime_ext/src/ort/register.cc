// The library's entry points for ONNX Runtime.
#include <map>
#include <mutex>

#include "contract.h"
#include "ort/cpu_op.h"
#include "ort/cuda_op.h"
#include "ort/status.h"

#if defined(_WIN32)
#define DUALBINARY_EXPORT __declspec(dllexport)
#else
#define DUALBINARY_EXPORT __attribute__((visibility("default")))
#endif

namespace dualbinary {
namespace {

// Sessions refer to a domain after their options are gone, so it lives as long as the process. A process may hold more
// than one copy of ONNX Runtime, each with its own table of functions, and objects of one must not reach the other.
OrtCustomOpDomain* domain_of(const OrtApiBase& base, const OrtApi& api) {
  static auto* const domains = new std::map<const OrtApi*, OrtCustomOpDomain*>;
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  OrtCustomOpDomain*& domain = (*domains)[&api];
  if (domain == nullptr) {
    check(api, api.CreateCustomOpDomain(contract::kDomain, &domain));
    for (const OrtCustomOp* op : new_cpu_ops(api)) check(api, api.CustomOpDomain_Add(domain, op));
    const OrtApi* newer = base.GetApi(kCudaApiVersion);
    if (newer == nullptr) return domain;
    for (const OrtCustomOp* op : new_cuda_ops(*newer)) check(api, api.CustomOpDomain_Add(domain, op));
  }
  return domain;
}

OrtStatus* register_ops(OrtSessionOptions* options, const OrtApiBase* base) noexcept {
  const OrtApi* api = base->GetApi(kOrtApiVersion);
  // A runtime older than 1.17. Registering nothing lets the model's own fallback function serve the op.
  if (api == nullptr) return nullptr;
  return guarded(*api, "dualbinary: ", [&] { check(*api, api->AddCustomOpDomain(options, domain_of(*base, *api))); });
}

}  // namespace
}  // namespace dualbinary

extern "C" {

// The symbol that SessionOptions.register_custom_ops_library and RegisterCustomOpsLibrary_V2 look for.
DUALBINARY_EXPORT OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  return dualbinary::register_ops(options, base);
}

// The same under a name that is unique in a static link, for RegisterCustomOpsUsingFunction.
DUALBINARY_EXPORT OrtStatus* ORT_API_CALL RegisterDualBinaryCustomOps(OrtSessionOptions* options,
                                                                      const OrtApiBase* base) {
  return dualbinary::register_ops(options, base);
}
}
