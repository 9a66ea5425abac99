#include "core/weight.h"

namespace dualbinary {

Weight::Weight(const Shape& shape, const Stored& stored, const Kernel& kernel)
    : shape_(shape), stored_(stored), kernel_(kernel) {
  if (kernel.pack_block == nullptr) return;
  packed_ = Packed::get(shape, stored, kernel);
  release_file_pages(stored.planes, static_cast<std::size_t>(planes_bytes(shape)));
  release_file_pages(stored.scales, static_cast<std::size_t>(scales_bytes(shape)));
}

std::size_t Weight::bytes() const {
  if (kernel_.block_bytes == nullptr) return static_cast<std::size_t>(planes_bytes(shape_) + scales_bytes(shape_));
  const std::int64_t blocks = (shape_.N + kernel_.block_rows - 1) / kernel_.block_rows;
  return static_cast<std::size_t>(blocks) * kernel_.block_bytes(shape_);
}

}  // namespace dualbinary
