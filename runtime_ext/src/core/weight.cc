#include "core/weight.h"

#include <cstring>
#include <stdexcept>

#include "contract.h"
#include "core/codes.h"

namespace dualbinary {
namespace {

bool starts_cache_line(const void* memory) {
  return reinterpret_cast<std::uintptr_t>(memory) % contract::kBlockAlignment == 0;
}

}  // namespace

Weight::Weight(const Shape& shape, const Stored& stored, const MatMulKernel& kernel, const MatMulKernel* many_rows)
    : shape_(shape), stored_(stored), kernel_(kernel), many_rows_(many_rows) {
  if (in_blocks(shape)) {
    use_blocks();
    return;
  }
  check_factors(shape, stored.scales);
  if (shape.layout == contract::kLayoutCodes) {
    shape_ = plain_shape(shape);
    plain_ = plain_planes(shape, stored.planes);
    stored_.planes = plain_.get();
  }
  if (kernel.pack_block == nullptr) return;
  shared_ = Packed::get(shape_, stored_, kernel);
  packed_ = shared_->data();
  plain_.reset();
  stored_ = {};
  release_file_pages(stored.planes, static_cast<std::size_t>(planes_bytes(shape)));
  release_file_pages(stored.scales, static_cast<std::size_t>(scales_bytes(shape)));
}

void Weight::use_blocks() {
  const auto stored_bytes = static_cast<std::size_t>(planes_bytes(shape_));
  if (kernel_.layout != shape_.layout || bytes() != stored_bytes) {
    throw std::logic_error(std::string(kernel_.name) + " does not read layout " + layout_name(shape_.layout));
  }
  packed_ = stored_.planes;
  if (starts_cache_line(packed_)) return;
  copy_ = allocate(stored_bytes);
  std::memcpy(copy_.get(), stored_.planes, stored_bytes);
  packed_ = copy_.get();
}

std::size_t Weight::bytes() const {
  if (kernel_.block_bytes == nullptr) return static_cast<std::size_t>(planes_bytes(shape_) + scales_bytes(shape_));
  const std::int64_t blocks = (shape_.N + kernel_.block_outputs - 1) / kernel_.block_outputs;
  return static_cast<std::size_t>(blocks) * kernel_.block_bytes(shape_);
}

}  // namespace dualbinary
