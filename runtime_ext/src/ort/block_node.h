// What nodes of blocks read: products behind a prefix, and optional vectors.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/spec.h"
#include "core/weight.h"
#include "onnxruntime_c_api.h"
#include "ort/node_reader.h"

namespace dualbinary {

// A product inside a block: the prefix of its attributes and inputs, and where planes and scales are.
struct ProductPort {
  const char* prefix;
  int planes;
  int scales;
};

// Its attributes, checked, with these sizes. Errors begin with the prefix.
Spec read_product(const AttributeReader& reader, const ProductPort& port, std::int64_t K, std::int64_t N);

// The weight of a product, packed for the kernel of this CPU. Throws where the node does not have it as the attributes
// say, with the prefix in front.
std::unique_ptr<Weight> read_weight(const OrtApi& api, const OrtKernelInfo* info, const ProductPort& port,
                                    std::int64_t K, std::int64_t N);

// True where the node has the input of that number.
bool has_input(const OrtApi& api, const OrtKernelInfo* info, int index);

// A vector [size] of float32 or float16 that a node may have, as float32. A constant one is read once; of another one,
// such as 1 + a weight that ONNX Runtime does not fold, each call reads what it gets.
class VectorInput {
 public:
  // Throws where a constant has another shape or type.
  VectorInput(const OrtApi& api, const OrtKernelInfo* info, int index, const char* name, std::int64_t size);

  bool there() const { return there_; }
  // The numbers, in `scratch` where they are those of the call; null where the node does not have it.
  const float* read(const OrtApi& api, OrtKernelContext* context, std::vector<float>& scratch) const;

 private:
  std::vector<float> floats(const OrtApi& api, const OrtValue* value) const;

  int index_;
  const char* name_;
  std::int64_t size_;
  bool there_;
  std::vector<float> constant_;
};

// An attribute that is a size: at least `minimum`, at most the contract's largest dimension.
std::int64_t read_size(const AttributeReader& reader, const char* name, std::int64_t minimum = 1);

}  // namespace dualbinary
