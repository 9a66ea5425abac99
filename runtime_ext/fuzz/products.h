// Products that a fuzzer makes up: specs that are good unless rarely, attributes and tensors of nodes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bytes.h"
#include "core/spec.h"
#include "fake_ort.h"

namespace dualbinary::fuzz {

// 1 to `most` outputs of K inputs, and 0 to `few` rows of a spec, rarely to kMostRows, as many as leave a call cheap:
// what is large in one way is small in the others, or a fuzzer breeds inputs that are large in all.
std::int64_t make_outputs(Bytes& bytes, std::int64_t K, std::int64_t most);
std::int64_t make_rows(Bytes& bytes, const Spec& spec, std::int64_t few);

// A spec of K inputs and N outputs, most often one that the contract allows.
Spec make_spec(Bytes& bytes, std::int64_t K, std::int64_t N);

// Dimensions of its tensors; of a spec that the contract does not allow, some.
std::vector<std::int64_t> make_planes_dims(Bytes& bytes, const Spec& spec);
std::vector<std::int64_t> make_scales_dims(Bytes& bytes, const Spec& spec);

// Makes the factors of coded scales finite, but for rarely; other scales stay.
void limit_factors(Bytes& bytes, OrtValue& scales);

ONNXTensorElementDataType onnx_type(Element type);

// Sets an integer attribute; rarely to something else, and rarely not at all.
void set_attribute(Bytes& bytes, OrtKernelInfo& node, const std::string& name, std::int64_t value);
void set_float(Bytes& bytes, OrtKernelInfo& node, const std::string& name, float value);

// Gives the node an input, rarely of other dimensions. False where the tensor would be too large.
bool set_input(Bytes& bytes, OrtKernelInfo& node, int index, ONNXTensorElementDataType type,
               std::vector<std::int64_t> dims, bool constant = true);

// Attributes with `prefix` in front and inputs of a product.
bool set_product(Bytes& bytes, OrtKernelInfo& node, const std::string& prefix, const Spec& spec, int planes, int scales,
                 ONNXTensorElementDataType scale_type);

}  // namespace dualbinary::fuzz
