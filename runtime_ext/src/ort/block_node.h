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

// A constant vector [size] of float32 or float16, as float32; empty where the node does not have it.
std::vector<float> read_vector(const OrtApi& api, const OrtKernelInfo* info, int index, const char* name,
                               std::int64_t size);

// An attribute that is a size: at least `minimum`, at most the contract's largest dimension.
std::int64_t read_size(const AttributeReader& reader, const char* name, std::int64_t minimum = 1);

}  // namespace dualbinary
