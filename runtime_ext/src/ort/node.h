// Reads and checks a DualBinaryMatMul node. Everything that comes from the model is hostile until checked.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/spec.h"
#include "onnxruntime_c_api.h"
#include "ort/node_reader.h"

namespace dualbinary {

// float32, float16 or bfloat16; throws std::invalid_argument, naming `name`, for anything else.
Element element_of(const char* name, ONNXTensorElementDataType type);

// The attributes, defaults filled in and checked; the rest is zero.
Spec read_attributes(const AttributeReader& reader);
// The same where the sizes are known.
Spec read_attributes(const AttributeReader& reader, std::int64_t K, std::int64_t N);

// Checks what is known of the three inputs against the attributes. Unknown dimensions pass. Returns the full shape, if
// the inputs tell it.
std::optional<Shape> check_inputs(Spec spec, const TensorInfo& x, const TensorInfo& planes, const TensorInfo& scales);

// The last dimension of X must be K; unknown passes.
void check_activations(std::int64_t K, const std::vector<std::int64_t>& dims);

}  // namespace dualbinary
