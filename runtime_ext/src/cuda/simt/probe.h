// One product by one matrix instruction; see dualbinary_cuda_probe() in launcher.h.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace dualbinary::cuda {

// Throws std::invalid_argument for an instruction that is not known.
void probe(std::string_view instruction, const void* a, const void* b, void* d, void* stream);

}  // namespace dualbinary::cuda
