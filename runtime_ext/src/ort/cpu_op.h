// DualBinaryMatMul for the CPU execution provider.
#pragma once

#include <vector>

#include "onnxruntime_c_api.h"

namespace dualbinary {

// One entry for each pair of types of X and scales. ONNX Runtime merges them into one schema, and takes the shape
// function of the first. They are never freed: sessions refer to them until the process ends.
std::vector<const OrtCustomOp*> new_cpu_ops(const OrtApi& api);

}  // namespace dualbinary
