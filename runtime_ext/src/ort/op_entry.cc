#include "ort/op_entry.h"

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "contract.h"
#include "ort/node_reader.h"
#include "ort/status.h"

namespace dualbinary {
namespace {

// A node of an older version means the same in a newer one, whose attributes have the defaults that it lacks.
constexpr int kFirstVersion = 1;

// OrtCustomOp's callbacks get the struct back, so what belongs to one entry follows it.
struct Op : OrtCustomOp {
  const OrtApi* api;
  OpEntry entry;
};

const Op& self(const OrtCustomOp* op) { return *static_cast<const Op*>(op); }
const OpEntry& entry_of(const OrtCustomOp* op) { return self(op).entry; }

struct Instance {
  const OrtApi& api;
  std::string where;  // starts every message: op and node
  std::unique_ptr<NodeInstance> node;
};

void refuse_newer(const OrtApi& api, const OrtKernelInfo* info) {
  const auto version = KernelAttributes(api, info).read(contract::kVersionAttribute);
  if (!version || *version <= contract::kOpVersion) return;
  throw std::invalid_argument(std::string(contract::kVersionAttribute) + ": " + std::to_string(*version) +
                              " is newer than " + std::to_string(contract::kOpVersion) +
                              ", the newest version of the operators that this library knows; upgrade dualbinary");
}

OrtStatus* ORT_API_CALL create_kernel(const OrtCustomOp* op, const OrtApi* runtime_api, const OrtKernelInfo* info,
                                      void** kernel) noexcept {
  std::string where;
  OrtStatus* status = guarded(*runtime_api, "", [&] { where = node_prefix(*runtime_api, info, entry_of(op).name); });
  if (status != nullptr) return status;
  return guarded(*runtime_api, where, [&] {
    const OrtApi& api = *self(op).api;
    refuse_newer(api, info);
    *kernel = std::make_unique<Instance>(Instance{api, where, entry_of(op).create(api, info)}).release();
  });
}

OrtStatus* ORT_API_CALL compute(void* kernel, OrtKernelContext* context) noexcept {
  const auto& instance = *static_cast<const Instance*>(kernel);
  return guarded(instance.api, instance.where, [&] { instance.node->compute(instance.api, context); });
}

OrtStatus* ORT_API_CALL infer(const OrtCustomOp* op, OrtShapeInferContext* context) noexcept {
  const OrtApi& api = *self(op).api;
  std::string where;
  OrtStatus* status = guarded(api, "", [&] { where = std::string(entry_of(op).name) + ": "; });
  if (status != nullptr) return status;
  return guarded(api, where, [&] { entry_of(op).infer(api, context); });
}

OrtCustomOpInputOutputCharacteristic characteristic(const Port& port) {
  return port.optional ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
}

}  // namespace

const OrtCustomOp* new_op(const OrtApi& api, OpEntry entry) {
  auto* op = new Op{{}, &api, std::move(entry)};
  op->version = kOrtApiVersion;
  op->GetName = [](const OrtCustomOp* o) noexcept { return entry_of(o).name; };
  op->GetExecutionProviderType = [](const OrtCustomOp* o) noexcept { return entry_of(o).provider; };
  op->GetInputTypeCount = [](const OrtCustomOp* o) noexcept { return entry_of(o).inputs.size(); };
  op->GetInputType = [](const OrtCustomOp* o, std::size_t i) noexcept { return entry_of(o).inputs[i].type; };
  op->GetOutputTypeCount = [](const OrtCustomOp* o) noexcept { return entry_of(o).outputs.size(); };
  op->GetOutputType = [](const OrtCustomOp* o, std::size_t i) noexcept { return entry_of(o).outputs[i].type; };
  op->GetInputCharacteristic = [](const OrtCustomOp* o, std::size_t i) noexcept {
    return characteristic(entry_of(o).inputs[i]);
  };
  op->GetOutputCharacteristic = [](const OrtCustomOp* o, std::size_t i) noexcept {
    return characteristic(entry_of(o).outputs[i]);
  };
  op->GetInputMemoryType = [](const OrtCustomOp* o, std::size_t i) noexcept { return entry_of(o).inputs[i].memory; };
  op->GetStartVersion = [](const OrtCustomOp*) noexcept { return kFirstVersion; };
  op->GetEndVersion = [](const OrtCustomOp*) noexcept { return contract::kOpVersion; };
  op->InferOutputShapeFn = infer;
  op->CreateKernelV2 = create_kernel;
  op->KernelComputeV2 = compute;
  op->KernelDestroy = [](void* kernel) noexcept { delete static_cast<Instance*>(kernel); };
  return op;
}

}  // namespace dualbinary
