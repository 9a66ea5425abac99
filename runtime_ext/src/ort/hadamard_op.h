// SignedHadamard for the CPU execution provider. An export for CUDA devices has standard operators in its place.
#pragma once

#include <vector>

#include "onnxruntime_c_api.h"

namespace dualbinary {

// One entry for each type of X. An op is never freed: sessions refer to it until the process ends.
std::vector<const OrtCustomOp*> new_hadamard_ops(const OrtApi& api);

}  // namespace dualbinary
