// Packed form of the AVX-512 kernels, one for table and level kernels.
//
// Output block: 32 outputs, as two vectors of 16. Line: 64 bytes for each vector; byte 4r+j of a vector belongs to its
// output r; the low nibble is the inputs 4j..4j+3 of the line, the high nibble the inputs 16+4j..16+4j+3.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/kernel.h"
#include "simd/x86_avx512.h"
#include "simd/x86_prefetch.h"

namespace dualbinary {
namespace {

struct Avx512Block {
  using F32x16 = dualbinary::F32x16;
  static constexpr int kVectorOutputs = 16;
  static constexpr int kBlockVectors = 2;
  static constexpr int kBlockOutputs = kBlockVectors * kVectorOutputs;
  static constexpr std::size_t kVector = 64;

  // Moves nibble j (j < 4) of each half-word to the low half of byte j.
  static std::uint32_t spread(std::uint32_t nibbles) {
    nibbles = (nibbles | nibbles << 8) & 0x00ff00ffU;
    return (nibbles | nibbles << 4) & 0x0f0f0f0fU;
  }

  static void pack_line(const std::uint32_t* words, std::uint8_t* out) {
    std::uint32_t line[kBlockOutputs];
    for (int r = 0; r < kBlockOutputs; ++r) line[r] = spread(words[r] & 0xffffU) | spread(words[r] >> 16) << 4;
    std::memcpy(out, line, sizeof(line));
  }

  // The reverse of spread.
  static std::uint32_t collect(std::uint32_t bytes) {
    bytes = (bytes | bytes >> 4) & 0x00ff00ffU;
    return (bytes | bytes >> 8) & 0xffffU;
  }

  static void unpack_line(const std::uint8_t* line, std::uint32_t* words) {
    std::memcpy(words, line, kBlockOutputs * sizeof(*words));
    for (int r = 0; r < kBlockOutputs; ++r) {
      words[r] = collect(words[r] & 0x0f0f0f0fU) | collect(words[r] >> 4 & 0x0f0f0f0fU) << 16;
    }
  }

  static void fetch(const std::uint8_t* at) { fetch_stream(at); }

  // Row `row` of `scales`, float32 or float16, for the 16 outputs of vector v.
  static __m512 load_scales(const std::uint8_t* scales, Element type, int row, int v) {
    const bool f16 = type == Element::kFloat16;
    const int first = row * kBlockOutputs + v * kVectorOutputs;
    const std::uint8_t* at = scales + static_cast<std::size_t>(first) * (f16 ? sizeof(std::uint16_t) : sizeof(float));
    fetch_stream(at);
    return f16 ? F32x16::load(reinterpret_cast<const std::uint16_t*>(at)).v
               : F32x16::load(reinterpret_cast<const float*>(at)).v;
  }
};

}  // namespace
}  // namespace dualbinary
