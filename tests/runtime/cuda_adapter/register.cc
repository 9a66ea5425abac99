// The op for CUDA devices, registered for the CPU provider: its device memory is then memory, and its stream is NULL.
#include "contract.h"
#include "ort/cuda_op.h"
#include "ort/status.h"

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                               const OrtApiBase* base) {
  using namespace dualbinary;
  const OrtApi& api = *base->GetApi(kCudaApiVersion);
  return guarded(api, "", [&] {
    static OrtCustomOpDomain* domain = nullptr;
    if (domain == nullptr) {
      check(api, api.CreateCustomOpDomain(contract::kDomain, &domain));
      for (const OrtCustomOp* op : new_cuda_ops(api, "CPUExecutionProvider")) {
        check(api, api.CustomOpDomain_Add(domain, op));
      }
    }
    check(api, api.AddCustomOpDomain(options, domain));
  });
}
