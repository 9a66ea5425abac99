// Tiles over M, rows prepared once for each tile, threads over N, and the exact kernel for what the others cannot
// represent.
#include "core/matmul.h"

#include <algorithm>
#include <array>
#include <vector>

#include "contract.h"
#include "core/memory.h"
#include "core/parallel.h"
#include "kernels/exact.h"

namespace dualbinary {
namespace {

// Bytes of the prepared rows of a tile, at most: a part of a 1 MiB L2 cache, the smallest among servers of today, so
// that weights stream beside them. Tables of 32 rows of 4096 inputs at level 4 just fit.
constexpr std::size_t kMaxPreparedBytes = 640 << 10;

// Work for one task, at least. Handing out a parallel loop costs 2 to 3 us with spinning workers and up to 14 us
// without. Table kernels take about 5 us for 2^20 plane bits, for one row as for four; the exact kernel takes 10 us for
// 2^13 plane bits times rows, and preparing rows 5 us for 2^14 inputs.
constexpr std::int64_t kMinBits = 1 << 20;
constexpr std::int64_t kRowsAtOnce = 4;
constexpr std::int64_t kMinExactBits = 1 << 13;
constexpr std::int64_t kMinInputs = 1 << 14;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// One tile of rows of X and the same rows of Y.
struct Tile {
  const Weight& weight;
  const MatMulKernel& kernel;
  Activations x;  // starts at the tile's first row
  std::int64_t rows;
  std::uint8_t* y;
  const ParallelFor& parallel;

  std::size_t element_bytes() const { return x.type == Element::kFloat16 ? 2 : 4; }
  void* y_row(std::int64_t m) const { return y + static_cast<std::size_t>(m * weight.shape().N) * element_bytes(); }
  std::int64_t plane_bits() const { return weight.shape().planes * weight.shape().N * weight.shape().K; }
};

// Outputs [n_begin, n_begin + count) of row m by the exact kernel; all of them, or only those that came out infinite or
// NaN. `part` and `stored` are a weight whose first outputs are these.
void exact_row(const Tile& tile, std::int64_t m, const Shape& part, const Stored& stored, std::int64_t n_begin,
               std::int64_t count, bool only_special) {
  std::vector<double> row(static_cast<std::size_t>(part.groups * part.group_size));
  exact_load_row(part, tile.x, m, row.data());
  auto* y = static_cast<std::uint8_t*>(tile.y_row(m)) + static_cast<std::size_t>(n_begin) * tile.element_bytes();
  for (std::int64_t n = 0; n < count; ++n) {
    if (only_special && all_finite(y, tile.x.type, n, n + 1)) continue;
    exact_multiply(part, stored, row.data(), y, tile.x.type, n, n + 1);
  }
}

void multiply_exact(const Tile& tile) {
  const Weight& weight = tile.weight;
  for_runs(weight.shape().N, tile.plane_bits() * tile.rows / kMinExactBits, tile.parallel,
           [&](std::int64_t begin, std::int64_t end) {
             std::vector<double> row(static_cast<std::size_t>(weight.shape().groups * weight.shape().group_size));
             for (std::int64_t m = 0; m < tile.rows; ++m) {
               exact_load_row(weight.shape(), tile.x, m, row.data());
               exact_multiply(weight.shape(), weight.stored(), row.data(), tile.y_row(m), tile.x.type, begin, end);
             }
           });
}

// Computes by the exact kernel what the tile's kernel could not in output blocks [begin, end): rows that it could not
// prepare, and results that are infinite or NaN. Their weights come from the packed form, the only one that every
// layout has.
void exact_blocks(const Tile& tile, const bool* regular, bool finite, std::int64_t begin, std::int64_t end) {
  const MatMulKernel& kernel = tile.kernel;
  Shape part = tile.weight.shape();
  const std::int64_t N = part.N;
  part.layout = contract::kLayoutPlain;
  part.N = part.scale_outputs = kernel.block_outputs;
  const bool any = std::any_of(regular, regular + tile.rows, [](bool is_regular) { return !is_regular; });
  if (finite && !any) return;
  std::vector<std::uint8_t> planes;
  std::vector<std::uint8_t> scales;
  for (std::int64_t block = begin; block < end; ++block) {
    const std::int64_t n_begin = block * kernel.block_outputs;
    const std::int64_t count = std::min<std::int64_t>(N - n_begin, kernel.block_outputs);
    bool unpacked = false;
    for (std::int64_t m = 0; m < tile.rows; ++m) {
      // Float sums overflowed on the way, or rightly so; the exact kernel tells which.
      const bool special = regular[m] && !finite && !all_finite(tile.y_row(m), tile.x.type, n_begin, n_begin + count);
      if (regular[m] && !special) continue;
      if (!unpacked) {
        planes.resize(static_cast<std::size_t>(planes_bytes(part)));
        scales.resize(static_cast<std::size_t>(scales_bytes(part)));
        kernel.unpack_block(part, tile.weight.packed() + static_cast<std::size_t>(block) * kernel.block_bytes(part),
                            {planes.data(), scales.data()});
        check_factors(part, scales.data(), n_begin);  // no load has looked at those of a file of blocks
        unpacked = true;
      }
      exact_row(tile, m, part, {planes.data(), scales.data()}, n_begin, count, special);
    }
  }
}

void multiply_tile(const Tile& tile, const PreparedRows& prepared) {
  const Shape& shape = tile.weight.shape();
  const MatMulKernel& kernel = tile.kernel;
  std::array<bool, kMaxTileRows> regular{};
  for_runs(tile.rows, tile.rows * shape.K / kMinInputs, tile.parallel, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t m = begin; m < end; ++m) {
      regular[static_cast<std::size_t>(m)] = kernel.prepare_row(shape, tile.x, m, prepared);
    }
  });
  const std::int64_t blocks = ceil_div(shape.N, kernel.block_outputs);
  const std::int64_t work = tile.plane_bits() * ceil_div(tile.rows, kRowsAtOnce);
  for_runs(blocks, work / kMinBits, tile.parallel, [&](std::int64_t begin, std::int64_t end) {
    const bool finite = kernel.multiply({&shape, tile.weight.packed(), prepared, tile.y, tile.x.type, begin, end});
    exact_blocks(tile, regular.data(), finite, begin, end);
  });
}

// Rows of a tile whose prepared form is in the budget, of a kernel that prepares any.
std::int64_t max_tile_rows(const MatMulKernel& kernel, const Shape& shape) {
  if (kernel.prepare_row == nullptr) return kMaxTileRows;
  const std::size_t two_rows = kernel.prepared_bytes(shape, 2);
  return std::clamp<std::int64_t>(static_cast<std::int64_t>(2 * kMaxPreparedBytes / two_rows), 1, kMaxTileRows);
}

}  // namespace

void multiply(const Weight& weight, const Activations& x, std::int64_t rows, void* y, const ParallelFor& parallel) {
  const Shape& shape = weight.shape();
  const MatMulKernel& kernel = weight.kernel_for(rows);
  // Tiles of equal size: a short last one would read all weights for little work.
  const std::int64_t tiles = std::max<std::int64_t>(1, ceil_div(rows, max_tile_rows(kernel, shape)));
  const std::int64_t tile_rows = std::max<std::int64_t>(1, ceil_div(rows, tiles));
  const bool exact = kernel.prepare_row == nullptr;
  const Scratch scratch(exact ? 0 : kernel.prepared_bytes(shape, tile_rows));
  const std::size_t element = x.type == Element::kFloat16 ? 2 : 4;
  for (std::int64_t m = 0; m < rows; m += tile_rows) {
    const std::int64_t count = std::min(tile_rows, rows - m);
    const Tile tile{
        weight,
        kernel,
        {static_cast<const std::uint8_t*>(x.data) + static_cast<std::size_t>(m * shape.K) * element, x.type},
        count,
        static_cast<std::uint8_t*>(y) + static_cast<std::size_t>(m * shape.N) * element,
        parallel};
    if (exact) {
      multiply_exact(tile);
    } else {
      multiply_tile(tile, {scratch.data(), count});
    }
  }
}

}  // namespace dualbinary
