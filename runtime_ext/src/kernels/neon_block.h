// Packed form of the NEON kernels, one for table and level kernels.
//
// Output block: 32 outputs. Line: for each 16 inputs four vectors of 16 bytes, each for 8 outputs. Bytes 2i and 2i+1 of
// a vector belong to its output i: byte 2i holds the inputs 0..3 of the sixteen in its low nibble and 8..11 in its high
// one, byte 2i+1 the inputs 4..7 and 12..15. So one lookup in two neighboring tables serves two nibbles of each
// output, and one pairwise addition (uadalp) sums them: no byte takes an operation to be widened.
#pragma once

#include <cstddef>
#include <cstdint>

#include "simd/arm_neon.h"

namespace dualbinary {
namespace {

struct NeonBlock {
  using F32x16 = dualbinary::F32x16;
  static constexpr int kBlockOutputs = 32;
  static constexpr int kVectorOutputs = 8;
  static constexpr int kVectors = kBlockOutputs / kVectorOutputs;
  static constexpr std::size_t kVector = 16;
  static constexpr int kVectorInputs = 16;

  static void pack_line(const std::uint32_t* words, std::uint8_t* out) {
    for (int half = 0; half < 2; ++half) {
      for (int r = 0; r < kBlockOutputs; ++r) {
        const std::uint32_t w = words[r] >> (16 * half);
        *out++ = static_cast<std::uint8_t>((w & 0x0fU) | (w >> 4 & 0xf0U));
        *out++ = static_cast<std::uint8_t>((w >> 4 & 0x0fU) | (w >> 8 & 0xf0U));
      }
    }
  }

  static void unpack_line(const std::uint8_t* line, std::uint32_t* words) {
    for (int r = 0; r < kBlockOutputs; ++r) {
      words[r] = 0;
      for (int half = 0; half < 2; ++half) {
        const std::uint32_t first = line[half * 2 * kBlockOutputs + 2 * r];
        const std::uint32_t second = line[half * 2 * kBlockOutputs + 2 * r + 1];
        const std::uint32_t sixteen =
            (first & 0x0fU) | (second & 0x0fU) << 4 | (first & 0xf0U) << 4 | (second & 0xf0U) << 8;
        words[r] |= sixteen << (16 * half);
      }
    }
  }

  [[gnu::always_inline]] static void fetch(const std::uint8_t* at) { fetch_ahead(at); }
};

}  // namespace
}  // namespace dualbinary
