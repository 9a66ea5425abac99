// The exact kernel: the operator's formula, term by term, in float64, on the stored weight. It defines what is right
// for every other kernel, serves CPUs that no other kernel fits, and takes over the rows that tables cannot represent.
//
// NaN and infinity follow IEEE rules; an input that no plane selects does not reach the sum (0 * inf is not computed).
#pragma once

#include <cstdint>

#include "kernels/kernel.h"

namespace dualbinary {

// Y[row, n] for n in [n_begin, n_end), rounded once to `y_type`. `x_row` is [Kp] in float64, zero beyond K; `y_row` is
// [N] of `y_type`.
void exact_multiply(const Shape& shape, const Stored& stored, const double* x_row, void* y_row, Element y_type,
                    std::int64_t n_begin, std::int64_t n_end);

// Element `index` of float32, float16 or bfloat16 values, exactly; and the nearest float32 or float16 in its place.
double load_element(const void* data, Element type, std::int64_t index);
void store_element(void* data, Element type, std::int64_t index, double value);

// Row `row` of X as [Kp] in float64, zero beyond K.
void exact_load_row(const Shape& shape, const Activations& x, std::int64_t row, double* out);

// True if elements [begin, end) of `data` are neither infinite nor NaN.
bool all_finite(const void* data, Element type, std::int64_t begin, std::int64_t end);

}  // namespace dualbinary
