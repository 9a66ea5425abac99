// Checks of a weight's spec, and what follows from it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/kernel.h"

namespace dualbinary {

// Checks the attributes of a node, which are all but planes, scale_rows, scale_outputs and scale_type; throws
// std::invalid_argument that names the attribute.
void check_attributes(const Spec& spec);

// Checks everything against the contract and derives the rest; throws std::invalid_argument.
Shape checked_shape(const Spec& spec);

// Throws std::invalid_argument, and says how to fix it, where the kernels for CUDA devices cannot take a weight that
// the contract allows.
void check_cuda_limits(const Shape& shape);

// Whether the stored layout is one of blocks for an instruction set: all are but plain and codes.
bool in_blocks(const Spec& spec);

// Dimensions of the stored tensors. Layout plain: [P, N, row_bytes], and [C, scale_outputs, Kp/G] or
// [C, scale_outputs, 2 + Kp/G] for scales of type uint8. Layout codes: [N, Kp/G + E, G*P/8], and the same scales.
// Blocks: [B, bytes of a block] with the scales inside, and [C, N, 0].
std::vector<std::int64_t> planes_dims(const Shape& shape);
std::vector<std::int64_t> scales_dims(const Shape& shape);

// They fit for every checked shape.
std::uint64_t planes_bytes(const Shape& shape);
std::uint64_t scales_bytes(const Shape& shape);

// Of a layout that check_attributes() accepts.
const char* layout_name(std::int64_t layout);

// Throws std::invalid_argument where coded scales of layout plain or codes have a factor that is not finite, which
// would turn zeros into NaN. `shape.scale_outputs` outputs from `first_output` on are at `scales`.
void check_factors(const Shape& shape, const void* scales, std::int64_t first_output = 0);

// "[2, 64, 16]"; a negative dimension is unknown and printed as "?".
std::string to_string(const std::vector<std::int64_t>& dims);

}  // namespace dualbinary
