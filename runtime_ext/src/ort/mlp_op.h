// DualBinaryMlp for CPUs. See core/mlp.h.
#pragma once

#include <vector>

#include "onnxruntime_c_api.h"

namespace dualbinary {

// An entry for each type of X.
std::vector<const OrtCustomOp*> new_mlp_ops(const OrtApi& api);

}  // namespace dualbinary
