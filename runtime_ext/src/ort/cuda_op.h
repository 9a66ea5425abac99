// DualBinaryMatMul for the CUDA execution provider. The kernels are in another shared object, see cuda_library.h; here
// is neither a kernel nor a header of CUDA.
#pragma once

#include <vector>

#include "onnxruntime_c_api.h"

namespace dualbinary {

// One entry for each pair of types of X and scales. `api` must be of version kCudaApiVersion or later. Tests give
// another provider, to run all of this without a GPU.
std::vector<const OrtCustomOp*> new_cuda_ops(const OrtApi& api, const char* provider = "CUDAExecutionProvider");

}  // namespace dualbinary
