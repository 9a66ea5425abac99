#include "core/hadamard.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <stdexcept>
#include <string>

#include "contract.h"
#include "core/memory.h"

namespace dualbinary {
namespace {

// Inputs of one task, at least: they take about 4 us, as long as handing out a parallel loop.
constexpr std::int64_t kMinInputs = 1 << 15;

[[noreturn]] void refuse(const std::string& name, const std::string& expected, std::int64_t got) {
  throw std::invalid_argument(name + ": expected " + expected + ", got " + std::to_string(got));
}

}  // namespace

void check_block(const Hadamard& h) {
  constexpr std::int64_t kLeast = contract::signed_hadamard::kAttrBlockSizeMinimum;
  constexpr std::int64_t kMost = contract::signed_hadamard::kMaxBlockSize;
  if (h.block_size < kLeast || h.block_size > kMost || !std::has_single_bit(static_cast<std::uint64_t>(h.block_size))) {
    refuse("block_size", "a power of two from " + std::to_string(kLeast) + " to " + std::to_string(kMost),
           h.block_size);
  }
  if (h.inverse != 0 && h.inverse != 1) refuse("inverse", "0 or 1", h.inverse);
}

void check_inputs(const Hadamard& h) {
  check_block(h);
  if (h.K < 1 || h.K > contract::kMaxDimension || h.K % h.block_size != 0) {
    refuse("S", "as many signs as X has inputs, a multiple of block_size = " + std::to_string(h.block_size), h.K);
  }
}

void check_signs(const Hadamard& h, const std::int8_t* signs) {
  const std::int8_t* wrong = std::find_if(signs, signs + h.K, [](std::int8_t s) { return s != 1 && s != -1; });
  if (wrong != signs + h.K) refuse("S", "1 or -1 for each input", *wrong);
}

void signed_hadamard(const HadamardKernel& kernel, const Hadamard& h, const std::int8_t* signs, const Activations& x,
                     std::int64_t rows, void* y, const ParallelFor& parallel) {
  const std::size_t element = x.type == Element::kFloat16 ? 2 : 4;
  const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(h.block_size)));
  // What is not divided: a block, or a row where blocks are smaller than vectors.
  const std::int64_t unit = h.block_size < kHadamardLanes ? h.K : h.block_size;
  const std::int64_t units = h.K / unit;
  for_runs(rows * units, rows * h.K / kMinInputs, parallel, [&](std::int64_t begin, std::int64_t end) {
    const std::size_t lanes = static_cast<std::size_t>(std::max(h.block_size, kHadamardLanes));
    const Scratch work(x.type == Element::kFloat16 ? lanes * sizeof(float) : 0);
    while (begin < end) {
      const std::int64_t first = begin % units;
      const std::int64_t count = std::min(units - first, end - begin);
      const std::size_t at = static_cast<std::size_t>(begin * unit) * element;
      kernel.transform({static_cast<const std::uint8_t*>(x.data) + at, signs + first * unit,
                        static_cast<std::uint8_t*>(y) + at, reinterpret_cast<float*>(work.data()), count * unit,
                        h.block_size, scale, x.type, h.inverse != 0});
      begin += count;
    }
  });
}

}  // namespace dualbinary
