#include "core/weight.h"

#include <stdexcept>

namespace dualbinary {
namespace {

// A factor that is not finite would turn zeros into NaN. Refused here, so that no kernel needs an answer to it.
void check_factors(const Shape& shape, const void* scales) {
  if (shape.scale_type != Element::kCode8) return;
  constexpr unsigned kHalfExponentHigh = 0x7c;  // of a float16's high byte
  const auto* row = static_cast<const std::uint8_t*>(scales);
  for (std::int64_t i = 0; i < shape.scale_rows * shape.N; ++i, row += kFactorBytes + shape.groups) {
    if ((row[1] & kHalfExponentHigh) == kHalfExponentHigh) {
      throw std::invalid_argument("scales: expected finite factors, got infinity or NaN in row " +
                                  std::to_string(i / shape.N) + " of output " + std::to_string(i % shape.N));
    }
  }
}

}  // namespace

Weight::Weight(const Shape& shape, const Stored& stored, const Kernel& kernel, const Kernel* many_rows)
    : shape_(shape), stored_(stored), kernel_(kernel), many_rows_(many_rows) {
  check_factors(shape, stored.scales);
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
