// DualBinaryAttention for CPUs. See core/attention_block.h.
#pragma once

#include <vector>

#include "onnxruntime_c_api.h"

namespace dualbinary {

// An entry for each pair of types of X and the cache.
std::vector<const OrtCustomOp*> new_attention_ops(const OrtApi& api);

}  // namespace dualbinary
