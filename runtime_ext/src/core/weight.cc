#include "core/weight.h"

#include <cstring>
#include <stdexcept>

#include "contract.h"

namespace dualbinary {
namespace {

bool starts_cache_line(const void* memory) {
  return reinterpret_cast<std::uintptr_t>(memory) % contract::kBlockAlignment == 0;
}

}  // namespace

Weight::Weight(const Shape& shape, const Stored& stored, const MatMulKernel& kernel, const MatMulKernel* many_rows)
    : shape_(shape), stored_(stored), kernel_(kernel), many_rows_(many_rows) {
  const auto stored_bytes = static_cast<std::size_t>(planes_bytes(shape));
  if (shape.layout != contract::kLayoutPlain) {
    if (kernel.layout != shape.layout || bytes() != stored_bytes) {
      throw std::logic_error(std::string(kernel.name) + " does not read layout " + layout_name(shape.layout));
    }
    packed_ = stored.planes;
    if (!starts_cache_line(packed_)) {
      copy_ = allocate(stored_bytes);
      std::memcpy(copy_.get(), stored.planes, stored_bytes);
      packed_ = copy_.get();
    }
    return;
  }
  check_factors(shape, stored.scales);
  if (kernel.pack_block == nullptr) return;
  shared_ = Packed::get(shape, stored, kernel);
  packed_ = shared_->data();
  release_file_pages(stored.planes, stored_bytes);
  release_file_pages(stored.scales, static_cast<std::size_t>(scales_bytes(shape)));
}

std::size_t Weight::bytes() const {
  if (kernel_.block_bytes == nullptr) return static_cast<std::size_t>(planes_bytes(shape_) + scales_bytes(shape_));
  const std::int64_t blocks = (shape_.N + kernel_.block_outputs - 1) / kernel_.block_outputs;
  return static_cast<std::size_t>(blocks) * kernel_.block_bytes(shape_);
}

}  // namespace dualbinary
