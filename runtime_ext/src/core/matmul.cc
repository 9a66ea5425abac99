// Tiles over M, rows prepared once for each tile, threads over N.
#include "core/matmul.h"

#include <algorithm>

#include "core/memory.h"
#include "core/parallel.h"
#include "core/tile.h"

namespace dualbinary {

void multiply(const Weight& weight, const Activations& x, std::int64_t rows, void* y, const ParallelFor& parallel) {
  const Shape& shape = weight.shape();
  const MatMulKernel& kernel = weight.kernel_for(rows);
  // Tiles of equal size: a short last one would read all weights for little work.
  const std::int64_t most = max_tile_rows(weight, rows);
  const std::int64_t tiles = std::max<std::int64_t>(1, (rows + most - 1) / most);
  const std::int64_t tile_rows = std::max<std::int64_t>(1, (rows + tiles - 1) / tiles);
  const Scratch scratch(Tile::prepared_bytes(weight, kernel, tile_rows));
  const std::int64_t element = x.type == Element::kFloat16 ? 2 : 4;
  for (std::int64_t m = 0; m < rows; m += tile_rows) {
    const Activations part{static_cast<const std::uint8_t*>(x.data) + m * shape.K * element, x.type};
    Tile tile(weight, kernel, part, std::min(tile_rows, rows - m),
              static_cast<std::uint8_t*>(y) + m * shape.N * element, scratch.data());
    for_runs(tile.rows(), tile.prepare_tasks(), parallel, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) tile.prepare(row);
    });
    for_runs(tile.blocks(), tile.multiply_tasks(), parallel,
             [&](std::int64_t begin, std::int64_t end) { tile.multiply(begin, end); });
  }
}

}  // namespace dualbinary
