#include "ort/hadamard_op.h"

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include "contract.h"
#include "core/dispatch.h"
#include "core/hadamard.h"
#include "core/spec.h"
#include "ort/host_pool.h"
#include "ort/node.h"
#include "ort/node_reader.h"
#include "ort/op_entry.h"
#include "ort/status.h"

namespace dualbinary {
namespace {

using namespace contract::signed_hadamard;

// Attributes and signs, the K of which is theirs; 0 where their shape is not known.
Hadamard read_node(const AttributeReader& reader, const TensorInfo& signs) {
  Hadamard result{0, reader.required(kAttrBlockSize), reader.read(kAttrInverse).value_or(kAttrInverseDefault)};
  check_block(result);
  if (signs.type != ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8) {
    throw std::invalid_argument("S: expected int8, got ONNX element type " + std::to_string(signs.type));
  }
  if (signs.dims.size() != 1) throw std::invalid_argument("S: expected shape [K], got " + to_string(signs.dims));
  if (signs.dims[0] < 0) return result;
  result.K = signs.dims[0];
  check_inputs(result);
  return result;
}

// A node of a session, whose signs stay in the model's memory.
class HadamardNode : public NodeInstance {
 public:
  HadamardNode(const Hadamard& hadamard, const std::int8_t* signs)
      : hadamard_(hadamard), signs_(signs), kernel_(choose_hadamard_kernel()) {}

  void compute(const OrtApi& api, OrtKernelContext* context) const override {
    const OrtValue* x = nullptr;
    check(api, api.KernelContext_GetInput(context, kInputX, &x));
    const TensorInfo info = read_info(api, x);
    check_activations(hadamard_.K, info.dims);
    OrtValue* y = nullptr;
    check(api, api.KernelContext_GetOutput(context, 0, info.dims.data(), info.dims.size(), &y));
    const std::int64_t rows = rows_of(info.dims);
    if (rows == 0) return;
    void* out = nullptr;
    check(api, api.GetTensorMutableData(y, &out));
    HostPool pool{api, context};
    signed_hadamard(kernel_, hadamard_, signs_, {tensor_data(api, x), element_of("X", info.type)}, rows, out,
                    pool.loop());
  }

 private:
  Hadamard hadamard_;
  const std::int8_t* signs_;
  const HadamardKernel& kernel_;
};

std::unique_ptr<NodeInstance> create(const OrtApi& api, const OrtKernelInfo* info) {
  const KernelAttributes attributes(api, info);
  const OrtValue* value = constant_input(api, info, kInputS, "S");
  const Hadamard hadamard = read_node(attributes, read_info(api, value));
  const auto* signs = static_cast<const std::int8_t*>(tensor_data(api, value));
  check_signs(hadamard, signs);
  return std::make_unique<HadamardNode>(hadamard, signs);
}

void infer_output(const OrtApi& api, OrtShapeInferContext* context) {
  OrtTensorTypeAndShapeInfo* info = nullptr;  // owned by the context
  const TensorInfo signs = inferred_info(api, context, kInputS, &info);
  const Hadamard hadamard = read_node(InferenceAttributes(api, context), signs);
  TensorInfo x = inferred_info(api, context, kInputX, &info);
  if (x.dims.empty()) return;  // nothing is known of it
  if (hadamard.K > 0) {
    check_activations(hadamard.K, x.dims);
    x.dims.back() = hadamard.K;
  }
  infer_output_like(api, context, info, x);
}

}  // namespace

std::vector<const OrtCustomOp*> new_hadamard_ops(const OrtApi& api) {
  std::vector<const OrtCustomOp*> ops;
  for (const auto type : {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16}) {
    ops.push_back(new_op(api, {kOpName,
                               "CPUExecutionProvider",
                               {{type}, {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8}},
                               {{type}},
                               create,
                               infer_output}));
  }
  return ops;
}

}  // namespace dualbinary
