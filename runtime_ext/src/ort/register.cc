// The library's entry point for ONNX Runtime.
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "capi/dualbinary_onnxruntime.h"
#include "contract.h"
#include "ort/attention_op.h"
#include "ort/cpu_op.h"
#include "ort/cuda_op.h"
#include "ort/hadamard_op.h"
#include "ort/mlp_op.h"
#include "ort/status.h"

namespace dualbinary {
namespace {

using Domains = std::vector<OrtCustomOpDomain*>;

// Up to 1.23 ONNX Runtime ends the process at nodes of blocks (docs/reliability.md). Where blocks are not registered
// their functions are inlined, and the products in these run here.
constexpr int kBlocksSince = 24;

// 23 of "1.23.2"; of a major version to come, more than all minor ones.
int minor_version(const OrtApiBase& base) {
  const char* text = base.GetVersionString();
  const char* point = std::strchr(text, '.');
  return std::atoi(text) > 1 || point == nullptr ? 1 << 16 : std::atoi(point + 1);
}

// All domains of the contract, with the same operators in each.
Domains new_domains(const OrtApiBase& base, const OrtApi& api) {
  std::vector<const OrtCustomOp*> ops;
  for (const OrtCustomOp* op : new_cpu_ops(api)) ops.push_back(op);
  for (const OrtCustomOp* op : new_hadamard_ops(api)) ops.push_back(op);
  if (minor_version(base) >= kBlocksSince) {
    for (const OrtCustomOp* op : new_mlp_ops(api)) ops.push_back(op);
    for (const OrtCustomOp* op : new_attention_ops(api)) ops.push_back(op);
  }
  if (const OrtApi* newer = base.GetApi(kCudaApiVersion); newer != nullptr) {
    for (const OrtCustomOp* op : new_cuda_ops(*newer)) ops.push_back(op);
  }
  Domains domains;
  for (const char* name : contract::kDomains) {
    OrtCustomOpDomain* domain = nullptr;
    check(api, api.CreateCustomOpDomain(name, &domain));
    domains.push_back(domain);
    for (const OrtCustomOp* op : ops) check(api, api.CustomOpDomain_Add(domain, op));
  }
  return domains;
}

// Sessions refer to a domain after their options are gone, so it lives as long as the process. A process may hold more
// than one copy of ONNX Runtime, each with its own table of functions, and objects of one must not reach the other.
const Domains& domains_of(const OrtApiBase& base, const OrtApi& api) {
  static auto* const known = new std::map<const OrtApi*, Domains>;
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  Domains& domains = (*known)[&api];
  if (domains.empty()) domains = new_domains(base, api);
  return domains;
}

OrtStatus* register_ops(OrtSessionOptions* options, const OrtApiBase* base) noexcept {
  const OrtApi* api = base->GetApi(kOrtApiVersion);
  // A runtime older than 1.17. Registering nothing lets the model's own fallback function serve the op.
  if (api == nullptr) return nullptr;
  return guarded(*api, "dualbinary: ", [&] {
    for (OrtCustomOpDomain* domain : domains_of(*base, *api)) check(*api, api->AddCustomOpDomain(options, domain));
  });
}

}  // namespace
}  // namespace dualbinary

// Its name is unique in a static link; RegisterCustomOps (register_shared.cc) is for shared libraries.
extern "C" DUALBINARY_API OrtStatus* RegisterDualBinaryCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  return dualbinary::register_ops(options, base);
}
