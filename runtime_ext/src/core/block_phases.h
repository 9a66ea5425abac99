// What the blocks of a decoder layer share: products as phases, and the residual stream in front of them and behind.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "core/phases.h"
#include "core/tile.h"
#include "kernels/elementwise.h"
#include "kernels/kernel.h"

namespace dualbinary {

// Threads that work on the phases of a block. The host does not say how many it has; those that it lacks cost little.
std::int64_t block_threads();

// One piece for each row of the tile: write_row(row), which writes what the tile reads, and the row's preparation.
Phase prepare_phase(Tile& tile, std::function<void(std::int64_t row)> write_row);

// Pieces of some output blocks each: their product, then after(first output, outputs).
Phase multiply_phase(Tile& tile, std::int64_t N, std::function<void(std::int64_t begin, std::int64_t count)> after);

// Rows [rows, width] of `x.type` from row `first` on; and the same as float32.
struct Rows {
  const ElementwiseKernel& kernel;
  Activations x;
  std::int64_t width;

  std::size_t offset(std::int64_t row) const {
    return static_cast<std::size_t>(row * width) * (x.type == Element::kFloat16 ? 2 : 4);
  }
  // Row `row` in float32: where it is, or in `scratch` [width].
  const float* floats(std::int64_t row, float* scratch) const;
};

}  // namespace dualbinary
