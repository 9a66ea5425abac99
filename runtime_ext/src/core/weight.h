// A weight that is ready for products: checked, and packed for the kernel that was chosen.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/memory.h"
#include "core/packed.h"
#include "core/spec.h"
#include "kernels/kernel.h"

namespace dualbinary {

// A parallel loop of the host: runs task(data, i) for every i in [0, count), in any order, and returns when all are
// done. Without `run` the loop runs on the calling thread.
struct ParallelFor {
  void (*run)(void* pool, void (*task)(void* data, std::size_t index), void* data, std::size_t count) = nullptr;
  void* pool = nullptr;
};

class Weight {
 public:
  // `planes` and `scales` must have planes_bytes() and scales_bytes() bytes, natural alignment, and stay readable as
  // long as the weight. `kernel` must read the shape's layout. Plain weights are read once, to be packed; the exact
  // kernel reads them in each product. Blocks are used where they are, and nothing of them is read here, so that a
  // mapped file costs nothing until it is used; where they do not start on a cache line they are copied. `many_rows`,
  // if given, reads the packed form of `kernel` and takes the calls of many rows. Throws std::invalid_argument where
  // coded scales of a plain weight have a factor that is not finite.
  Weight(const Shape& shape, const Stored& stored, const Kernel& kernel, const Kernel* many_rows = nullptr);

  // Y [rows, N] of x.type = X [rows, K] times this weight. `y` must not overlap anything else. Safe to call from
  // several threads at once. Results do not depend on the number of threads. Throws std::bad_alloc, and
  // std::invalid_argument where results are not finite because a factor in a block is not.
  void multiply(const Activations& x, std::int64_t rows, void* y, const ParallelFor& parallel) const;

  const Shape& shape() const { return shape_; }
  const Stored& stored() const { return stored_; }
  const Kernel& kernel() const { return kernel_; }
  const std::uint8_t* packed() const { return packed_; }

  // Bytes that one product reads of the weight.
  std::size_t bytes() const;

 private:
  Shape shape_;
  Stored stored_;
  const Kernel& kernel_;
  const Kernel* many_rows_;
  std::shared_ptr<const Packed> shared_;  // of a plain weight
  Buffer copy_;                           // of blocks that do not start on a cache line
  const std::uint8_t* packed_ = nullptr;  // null for the exact kernel
};

}  // namespace dualbinary
