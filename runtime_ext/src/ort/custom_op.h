// What all entries of DualBinaryMatMul share, whatever provider they are for: the OrtCustomOp with its callbacks, the
// shape function, and reading and checking a node and its calls. An entry adds what it does with the weight.
#pragma once

#include <cstdint>
#include <memory>

#include "kernels/kernel.h"
#include "onnxruntime_c_api.h"

namespace dualbinary {

// A node of which attributes and constant inputs have been checked. `stored` is in host memory, and stays as long as
// the session.
struct Node {
  const OrtApi& api;
  const OrtKernelInfo* info;
  std::int64_t accuracy_level;
  Shape shape;
  Stored stored;
};

// One call: Y [rows, N] = X [rows, K] times the weight, rows > 0; x and y are in memory of the entry's provider.
struct Call {
  const OrtApi& api;
  OrtKernelContext* context;
  Activations x;
  std::int64_t rows;
  void* y;
};

// A node of a session, ready for calls, which may come from several threads at once. Exceptions become the session's
// error, behind the name of the node.
class NodeKernel {
 public:
  virtual ~NodeKernel() = default;
  virtual void multiply(const Call& call) const = 0;
};

// The kernel for one provider and pair of types.
struct Entry {
  const char* provider;
  ONNXTensorElementDataType x_type;
  ONNXTensorElementDataType scale_type;
  // Of planes and scales. The host must be able to read them: where the provider's default memory is a device's, it has
  // to be OrtMemTypeCPUInput.
  OrtMemType weight_memory;
  std::unique_ptr<NodeKernel> (*create)(const Node& node);
};

// ONNX Runtime merges all entries of one name into one schema, and takes the shape function of the first; here all have
// the same one. An op is never freed: sessions refer to it until the process ends.
const OrtCustomOp* new_custom_op(const OrtApi& api, const Entry& entry);

}  // namespace dualbinary
