// A weight that is ready for products (matmul.h): checked, and packed for the kernel that was chosen.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/memory.h"
#include "core/packed.h"
#include "core/spec.h"
#include "kernels/kernel.h"

namespace dualbinary {

class Weight {
 public:
  // `planes` and `scales` must have planes_bytes() and scales_bytes() bytes, natural alignment, and stay readable as
  // long as the weight. `kernel` must read the shape's layout. Plain weights are read once, to be packed; the exact
  // kernel reads them in each product. Codes become a plain weight first, of which the exact kernel alone keeps the
  // planes. Blocks are used where they are, and nothing of them is read here, so that a
  // mapped file costs nothing until it is used; where they do not start on a cache line they are copied. `many_rows`,
  // if given, reads the packed form of `kernel` and takes the calls of many rows. Throws std::invalid_argument where
  // coded scales of a weight that is not in blocks have a factor that is not finite.
  Weight(const Shape& shape, const Stored& stored, const MatMulKernel& kernel, const MatMulKernel* many_rows = nullptr);

  // That of layout plain where the weight was in codes.
  const Shape& shape() const { return shape_; }
  // What the exact kernel reads; of others' weights nothing.
  const Stored& stored() const { return stored_; }
  const MatMulKernel& kernel() const { return kernel_; }
  // For a product of so many rows.
  const MatMulKernel& kernel_for(std::int64_t rows) const {
    return many_rows_ != nullptr && rows >= many_rows_->min_rows(shape_) ? *many_rows_ : kernel_;
  }
  const std::uint8_t* packed() const { return packed_; }

  // Bytes that one product reads of the weight.
  std::size_t bytes() const;

 private:
  void use_blocks();

  Shape shape_;
  Stored stored_;
  const MatMulKernel& kernel_;
  const MatMulKernel* many_rows_;
  Buffer plain_;                          // planes of a weight in codes, for the exact kernel
  std::shared_ptr<const Packed> shared_;  // of a weight that is not in blocks
  Buffer copy_;                           // of blocks that do not start on a cache line
  const std::uint8_t* packed_ = nullptr;  // null for the exact kernel
};

}  // namespace dualbinary
