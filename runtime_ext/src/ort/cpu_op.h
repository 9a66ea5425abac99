// DualBinaryMatMul for the CPU execution provider.
#pragma once

#include <vector>

#include "onnxruntime_c_api.h"

namespace dualbinary {

// One entry for each pair of types of X and scales. Those for bfloat16 refuse it, with the way out.
std::vector<const OrtCustomOp*> new_cpu_ops(const OrtApi& api);

}  // namespace dualbinary
