#include <limits>
#include <stdexcept>
#include <string>

#include "cuda/pack.h"
#include "cuda/weight.h"

namespace dualbinary::cuda {
namespace {

Scales scales_of(Element type) {
  switch (type) {
    case Element::kFloat16:
      return Scales::kFloat16;
    case Element::kFloat32:
      return Scales::kFloat32;
    case Element::kBFloat16:
      return Scales::kBfloat16;
    case Element::kCode8:
      return Scales::kCodes;
  }
  throw std::logic_error("the type of the scales was not checked");
}

Base base_of(const Shape& shape) {
  if (shape.scale_rows > (shape.levels == kEvenLevels ? 1 : shape.planes)) return Base::kOffset;
  if (shape.twice_zero == kGroupZeros) return Base::kGroupZeros;
  return shape.twice_zero > 0 ? Base::kZero : Base::kNone;
}

PackedWeight describe(const Shape& shape) {
  const auto tiles = [](std::int64_t count, int size) { return static_cast<int>((count + size - 1) / size); };
  const auto parts = static_cast<std::uint64_t>(shape.group_size / kPartInputs);
  const Base base = base_of(shape);
  return {.K = static_cast<int>(shape.K),
          .N = static_cast<int>(shape.N),
          .row_tiles = tiles(shape.N, kTileRows),
          .input_tiles = tiles(shape.K, kTileInputs),
          .groups = static_cast<int>(shape.groups),
          .group_parts = static_cast<int>(parts),
          .group_inverse = static_cast<std::uint32_t>(((std::uint64_t{1} << 31) + parts - 1) / parts),
          .P = static_cast<int>(shape.planes),
          .C = static_cast<int>(shape.scale_rows) + (base == Base::kGroupZeros ? 1 : 0),
          .scale_type = scales_of(shape.scale_type),
          .even = shape.levels == kEvenLevels,
          .base = base,
          .zero = 0.5f * static_cast<float>(shape.twice_zero),
          .planes = nullptr,
          .scales = nullptr,
          .factors = nullptr};
}

}  // namespace

DeviceWeight::DeviceWeight(const Shape& shape, const Stored& stored, const Device& device)
    : device_(device), accuracy_level_(static_cast<int>(shape.accuracy_level)), packed_(describe(shape)) {
  check_factors(shape, stored.scales);
  check_device(device_.capability);
  const DeviceScope scope(device_.index);
  pack(stored, shape);
}

const CudaKernel& DeviceWeight::kernel(const char* name, const Call& call) const {
  return name == nullptr ? choose_kernel(call, device_.capability)
                         : kernel_named(name, call.x.rows, device_.capability);
}

void DeviceWeight::pack(const Stored& stored, const Shape& shape) {
  PackedWeight& w = packed_;
  const auto allocate = [&](DeviceMemory& memory, std::int64_t elements, std::size_t size) {
    const std::size_t bytes = static_cast<std::size_t>(elements) * size;
    memory = allocate_on(device_.index, bytes);
    bytes_ += bytes;
    return memory.get();
  };
  const DeviceMemory plain_planes = allocate_on(device_.index, planes_bytes(shape));
  const DeviceMemory plain_scales = allocate_on(device_.index, scales_bytes(shape));
  const Stream stream;
  stream.upload(plain_planes.get(), stored.planes, planes_bytes(shape));
  stream.upload(plain_scales.get(), stored.scales, scales_bytes(shape));
  const auto over = [&](std::int64_t count) {
    const auto blocks = (count + kPackThreads - 1) / kPackThreads;
    if (blocks > std::numeric_limits<int>::max()) throw std::invalid_argument("the weight is too large");
    return simt::Launch{{static_cast<unsigned>(blocks)}, kPackThreads, 0, stream.get()};
  };
  const PlainWeight plain{static_cast<const std::uint8_t*>(plain_planes.get()), plain_scales.get(), shape.row_bytes,
                          shape.groups * shape.group_size / 8, shape.scale_outputs == 1};

  const std::int64_t words = std::int64_t{w.row_tiles} * w.input_tiles * simt::kLanes * w.P * 2;
  auto* planes = static_cast<std::uint32_t*>(allocate(planes_, words, sizeof(std::uint32_t)));
  simt::launch(pack_planes, over(words), w, plain, planes, words);
  w.planes = planes;

  const std::int64_t factors = std::int64_t{w.row_tiles} * w.C * kTileRows;
  const std::int64_t scales = factors * w.groups + std::int64_t{kParts} * w.C * kTileRows;
  const auto pack_floats = [&]<Scales kType>() {
    using Bits = typename ScaleBits<kType>::Bits;
    auto* to = static_cast<Bits*>(allocate(scales_, scales, sizeof(Bits)));
    simt::launch(pack_scales<kType>, over(scales), w, plain, to, scales);
  };
  switch (w.scale_type) {
    case Scales::kFloat16:
      pack_floats.template operator()<Scales::kFloat16>();
      break;
    case Scales::kFloat32:
      pack_floats.template operator()<Scales::kFloat32>();
      break;
    case Scales::kBfloat16:
      pack_floats.template operator()<Scales::kBfloat16>();
      break;
    case Scales::kCodes:
      constexpr CodeRules kRules{static_cast<int>(kFactorBytes), static_cast<int>(kCodeZero),
                                 static_cast<int>(kCodeUnit)};
      auto* to = static_cast<std::int8_t*>(allocate(scales_, scales, sizeof(std::int8_t)));
      simt::launch(pack_codes, over(scales), w, plain, kRules, to, scales);
      auto* of_rows = static_cast<float*>(allocate(factors_, factors, sizeof(float)));
      simt::launch(pack_factors, over(factors), w, plain, kRules, of_rows, factors);
      w.factors = of_rows;
  }
  w.scales = scales_.get();
  stream.wait();  // the plain copy goes now
}

}  // namespace dualbinary::cuda
