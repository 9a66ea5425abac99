// A product of few rows as work that a caller hands out: rows to prepare, then output blocks to multiply.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "core/weight.h"
#include "kernels/kernel.h"

namespace dualbinary {

// Rows that a tile for `rows` rows takes, at most: their prepared form is in a budget.
std::int64_t max_tile_rows(const Weight& weight, std::int64_t rows);

// Y [rows, N] of x.type = X [rows, K] times the weight. First prepare() of every row, then multiply() of every block:
// in any order and on any threads, but all rows before the first block. What the kernel cannot represent is done by the
// exact kernel on the way. Nothing here is owned: X, Y and `prepared`, of prepared_bytes(), stay the caller's, and Y
// must not overlap anything else. Both throw std::bad_alloc, and multiply() std::invalid_argument where results are not
// finite because a factor in a block is not.
class Tile {
 public:
  // Rows are at most max_tile_rows() of the rows for which `kernel` was chosen.
  Tile(const Weight& weight, const MatMulKernel& kernel, const Activations& x, std::int64_t rows, void* y,
       std::uint8_t* prepared);

  static std::size_t prepared_bytes(const Weight& weight, const MatMulKernel& kernel, std::int64_t rows);

  std::int64_t rows() const { return rows_; }
  std::int64_t blocks() const;
  // Outputs of a block; the last one has the rest.
  std::int64_t block_outputs() const { return exact_ ? contract::kBlockRows : kernel_.block_outputs; }

  void prepare(std::int64_t row);
  void multiply(std::int64_t block_begin, std::int64_t block_end);

  // Runs of rows, and of blocks, that are worth a task of their own.
  std::int64_t prepare_tasks() const;
  std::int64_t multiply_tasks() const;

 private:
  std::uint8_t* y_row(std::int64_t m) const;
  void exact_row(std::int64_t m, const Shape& part, const Stored& stored, std::int64_t n_begin, std::int64_t count,
                 bool only_special) const;
  void multiply_exact(std::int64_t n_begin, std::int64_t n_end) const;
  void exact_blocks(bool finite, std::int64_t begin, std::int64_t end) const;

  const Weight& weight_;
  const MatMulKernel& kernel_;
  Activations x_;
  std::int64_t rows_;
  std::uint8_t* y_;
  PreparedRows prepared_;
  bool exact_;                                // the weight has no other kernel
  std::array<bool, kMaxTileRows> regular_{};  // rows that the kernel could prepare
};

}  // namespace dualbinary
