// The shared object with the kernels for NVIDIA GPUs, opened when it is first needed. Nothing here knows CUDA: where no
// node is placed on a GPU, it is not looked for.
#pragma once

#include "capi/dualbinary_cuda.h"

namespace dualbinary {

// Functions of capi/dualbinary_cuda.h, without the prefix.
struct CudaLibrary {
  decltype(&dualbinary_cuda_digest) digest;
  decltype(&dualbinary_cuda_weight_create) weight_create;
  decltype(&dualbinary_cuda_weight_destroy) weight_destroy;
  decltype(&dualbinary_cuda_workspace) workspace;
  decltype(&dualbinary_cuda_multiply) multiply;
};

// Opens the file that the environment variable DUALBINARY_CUDA_LIBRARY names, else libdualbinary_cuda beside this
// library, and checks that it was built from the same contract. It stays open as long as this library. Throws
// std::runtime_error, with the way out, where there is no such file, it cannot be opened, lacks a function, or has
// another contract; the next call tries again. Safe to call from several threads at once.
const CudaLibrary& cuda_library();

}  // namespace dualbinary
