// An operator's entry for ONNX Runtime: the OrtCustomOp with all its callbacks, of what one operator says of itself.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "onnxruntime_c_api.h"

namespace dualbinary {

// A node of a session, ready for calls, which may come from several threads at once. Exceptions become the session's
// error, which begins with the name of the node.
class NodeInstance {
 public:
  virtual ~NodeInstance() = default;
  virtual void compute(const OrtApi& api, OrtKernelContext* context) const = 0;
};

// An input or output. ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED takes any type, which the node's check then has to
// refuse.
struct Port {
  ONNXTensorElementDataType type;
  bool optional = false;
  OrtMemType memory = OrtMemTypeDefault;  // of an input
};

struct OpEntry {
  const char* name;
  const char* provider;
  std::vector<Port> inputs;
  std::vector<Port> outputs;
  // Both throw for what is wrong with the node; messages get its name in front, and the operator's.
  std::function<std::unique_ptr<NodeInstance>(const OrtApi& api, const OrtKernelInfo* info)> create;
  std::function<void(const OrtApi& api, OrtShapeInferContext* context)> infer;
};

// Never freed: sessions refer to it until the process ends. ONNX Runtime merges all entries of one name into one
// schema, and takes the shape function of the first: that of all has to be the same.
const OrtCustomOp* new_op(const OrtApi& api, OpEntry entry);

}  // namespace dualbinary
