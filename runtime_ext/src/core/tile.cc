#include "core/tile.h"

#include <algorithm>
#include <vector>

#include "contract.h"
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

bool is_exact(const MatMulKernel& kernel) { return kernel.prepare_row == nullptr; }

std::size_t element_bytes(Element type) { return type == Element::kFloat16 ? 2 : 4; }

}  // namespace

std::int64_t max_tile_rows(const Weight& weight, std::int64_t rows) {
  const MatMulKernel& kernel = weight.kernel_for(rows);
  if (is_exact(kernel)) return kMaxTileRows;
  const std::size_t two_rows = kernel.prepared_bytes(weight.shape(), 2);
  return std::clamp<std::int64_t>(static_cast<std::int64_t>(2 * kMaxPreparedBytes / two_rows), 1, kMaxTileRows);
}

std::size_t Tile::prepared_bytes(const Weight& weight, const MatMulKernel& kernel, std::int64_t rows) {
  return is_exact(kernel) ? 0 : kernel.prepared_bytes(weight.shape(), rows);
}

Tile::Tile(const Weight& weight, const MatMulKernel& kernel, const Activations& x, std::int64_t rows, void* y,
           std::uint8_t* prepared)
    : weight_(weight),
      kernel_(kernel),
      x_(x),
      rows_(rows),
      y_(static_cast<std::uint8_t*>(y)),
      prepared_{prepared, rows},
      exact_(is_exact(kernel)) {}

std::int64_t Tile::blocks() const { return ceil_div(weight_.shape().N, block_outputs()); }

void Tile::prepare(std::int64_t row) {
  if (exact_) return;
  regular_[static_cast<std::size_t>(row)] = kernel_.prepare_row(weight_.shape(), x_, row, prepared_);
}

void Tile::multiply(std::int64_t block_begin, std::int64_t block_end) {
  const Shape& shape = weight_.shape();
  if (exact_) {
    multiply_exact(block_begin * block_outputs(), std::min(shape.N, block_end * block_outputs()));
    return;
  }
  const bool finite = kernel_.multiply({&shape, weight_.packed(), prepared_, y_, x_.type, block_begin, block_end});
  exact_blocks(finite, block_begin, block_end);
}

std::int64_t Tile::prepare_tasks() const { return exact_ ? 1 : rows_ * weight_.shape().K / kMinInputs; }

std::int64_t Tile::multiply_tasks() const {
  const Shape& shape = weight_.shape();
  const std::int64_t plane_bits = shape.planes * shape.N * shape.K;
  return exact_ ? plane_bits * rows_ / kMinExactBits : plane_bits * ceil_div(rows_, kRowsAtOnce) / kMinBits;
}

std::uint8_t* Tile::y_row(std::int64_t m) const {
  return y_ + static_cast<std::size_t>(m * weight_.shape().N) * element_bytes(x_.type);
}

// Outputs [n_begin, n_begin + count) of row m by the exact kernel; all of them, or only those that came out infinite or
// NaN. `part` and `stored` are a weight whose first outputs are these.
void Tile::exact_row(std::int64_t m, const Shape& part, const Stored& stored, std::int64_t n_begin, std::int64_t count,
                     bool only_special) const {
  std::vector<double> row(static_cast<std::size_t>(part.groups * part.group_size));
  exact_load_row(part, x_, m, row.data());
  std::uint8_t* y = y_row(m) + static_cast<std::size_t>(n_begin) * element_bytes(x_.type);
  for (std::int64_t n = 0; n < count; ++n) {
    if (only_special && all_finite(y, x_.type, n, n + 1)) continue;
    exact_multiply(part, stored, row.data(), y, x_.type, n, n + 1);
  }
}

void Tile::multiply_exact(std::int64_t n_begin, std::int64_t n_end) const {
  const Shape& shape = weight_.shape();
  std::vector<double> row(static_cast<std::size_t>(shape.groups * shape.group_size));
  for (std::int64_t m = 0; m < rows_; ++m) {
    exact_load_row(shape, x_, m, row.data());
    exact_multiply(shape, weight_.stored(), row.data(), y_row(m), x_.type, n_begin, n_end);
  }
}

// Computes by the exact kernel what the tile's kernel could not in output blocks [begin, end): rows that it could not
// prepare, and results that are infinite or NaN. Their weights come from the packed form, the only one that every
// layout has.
void Tile::exact_blocks(bool finite, std::int64_t begin, std::int64_t end) const {
  Shape part = weight_.shape();
  const std::int64_t N = part.N;
  part.layout = contract::kLayoutPlain;
  part.N = part.scale_outputs = kernel_.block_outputs;
  const bool any = std::any_of(regular_.begin(), regular_.begin() + rows_, [](bool is_regular) { return !is_regular; });
  if (finite && !any) return;
  std::vector<std::uint8_t> planes;
  std::vector<std::uint8_t> scales;
  for (std::int64_t block = begin; block < end; ++block) {
    const std::int64_t n_begin = block * kernel_.block_outputs;
    const std::int64_t count = std::min<std::int64_t>(N - n_begin, kernel_.block_outputs);
    bool unpacked = false;
    for (std::int64_t m = 0; m < rows_; ++m) {
      const bool regular = regular_[static_cast<std::size_t>(m)];
      // Float sums overflowed on the way, or rightly so; the exact kernel tells which.
      const bool special = regular && !finite && !all_finite(y_row(m), x_.type, n_begin, n_begin + count);
      if (regular && !special) continue;
      if (!unpacked) {
        planes.resize(static_cast<std::size_t>(planes_bytes(part)));
        scales.resize(static_cast<std::size_t>(scales_bytes(part)));
        kernel_.unpack_block(part, weight_.packed() + static_cast<std::size_t>(block) * kernel_.block_bytes(part),
                             {planes.data(), scales.data()});
        check_factors(part, scales.data(), n_begin);  // no load has looked at those of a file of blocks
        unpacked = true;
      }
      exact_row(m, part, {planes.data(), scales.data()}, n_begin, count, special);
    }
  }
}

}  // namespace dualbinary
