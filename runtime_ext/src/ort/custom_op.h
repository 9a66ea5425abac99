// DualBinaryMatMul for any provider: the OrtCustomOp with its callbacks, the shape function, and reading and checking a
// node and its calls. A provider adds a NodeKernel.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/kernel.h"
#include "onnxruntime_c_api.h"

namespace dualbinary {

// A node of which attributes and constant inputs have been checked. `stored` is in host memory, and stays as long as
// the session.
struct Node {
  const OrtApi& api;
  const OrtKernelInfo* info;
  Shape shape;
  Stored stored;
};

// One call: Y [rows, N] = X [rows, K] times the weight, rows > 0; x and y are in the provider's memory.
struct Call {
  const OrtApi& api;
  OrtKernelContext* context;
  Activations x;
  std::int64_t rows;
  void* y;
};

// A node of a session, ready for calls, which may come from several threads at once. Exceptions become the session's
// error, which begins with the name of the node.
class NodeKernel {
 public:
  virtual ~NodeKernel() = default;
  virtual void multiply(const Call& call) const = 0;
};

using NodeKernelFactory = std::unique_ptr<NodeKernel> (*)(const Node& node);

// The op for one provider: an entry for each pair of types of X and scales, whose kernels create_for(type of X)
// creates. `weight_memory` is that of planes and scales. The host must be able to read them: where the provider's
// default memory is a device's, it has to be OrtMemTypeCPUInput.
//
// ONNX Runtime merges all entries of one name into one schema, and takes the shape function of the first; here all have
// the same one. An op is never freed: sessions refer to it until the process ends.
std::vector<const OrtCustomOp*> new_custom_ops(const OrtApi& api, const char* provider, OrtMemType weight_memory,
                                               NodeKernelFactory (*create_for)(ONNXTensorElementDataType x_type));

}  // namespace dualbinary
