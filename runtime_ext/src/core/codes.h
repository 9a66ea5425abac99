// Layout codes of the contract, and its way to layout plain, which the kernels are packed from.
#pragma once

#include <cstdint>

#include "core/memory.h"
#include "kernels/kernel.h"

namespace dualbinary {

// The same weight in layout plain, of a checked shape in layout codes.
Shape plain_shape(Shape codes);

// Its planes [P, N, row_bytes] from `codes`, which has planes_bytes() bytes at any address; by several threads where it
// is large. The scales are the same in both. Throws std::bad_alloc.
Buffer plain_planes(const Shape& shape, const std::uint8_t* codes);

}  // namespace dualbinary
