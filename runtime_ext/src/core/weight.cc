#include "core/weight.h"

namespace dualbinary {

Weight::Weight(const Shape& shape, const Stored& stored, const Kernel& kernel, const Kernel* many_rows)
    : shape_(shape), stored_(stored), kernel_(kernel), many_rows_(many_rows) {
  if (kernel.pack_block == nullptr) return;
  const std::size_t block_bytes = kernel.block_bytes(shape);
  const std::int64_t blocks = (shape.N + kernel.block_rows - 1) / kernel.block_rows;
  packed_ = allocate(bytes());
  for (std::int64_t block = 0; block < blocks; ++block) {
    kernel.pack_block(shape, stored, block, packed_.get() + static_cast<std::size_t>(block) * block_bytes);
  }
  release_file_pages(stored.planes, static_cast<std::size_t>(planes_bytes(shape)));
  release_file_pages(stored.scales, static_cast<std::size_t>(scales_bytes(shape)));
}

std::size_t Weight::bytes() const {
  if (kernel_.block_bytes == nullptr) return static_cast<std::size_t>(planes_bytes(shape_) + scales_bytes(shape_));
  const std::int64_t blocks = (shape_.N + kernel_.block_rows - 1) / kernel_.block_rows;
  return static_cast<std::size_t>(blocks) * kernel_.block_bytes(shape_);
}

}  // namespace dualbinary
