// Packed form of the AVX2 kernels, one for table and level kernels.
//
// Output block: 32 outputs. Line: four vectors of 32 bytes, one for each 8 inputs; byte 2i of a vector is output i,
// byte 2i+1 output 16+i (the order in which ByteSums returns its sums); the low nibble is the inputs 0..3 of the eight,
// the high nibble 4..7, as stored.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/kernel.h"
#include "kernels/pack-inl.h"
#include "simd/x86_avx2.h"
#include "simd/x86_prefetch.h"

namespace dualbinary {
namespace {

struct Avx2Block {
  using F32x16 = dualbinary::F32x16;
  static constexpr int kBlockOutputs = 32;
  static constexpr std::size_t kVector = 32;

  static void pack_line(const std::uint32_t* words, std::uint8_t* out) {
    for (int eight = 0; eight < kLineInputs / 8; ++eight) {
      for (int i = 0; i < 16; ++i) {
        out[eight * 32 + 2 * i] = static_cast<std::uint8_t>(words[i] >> (8 * eight));
        out[eight * 32 + 2 * i + 1] = static_cast<std::uint8_t>(words[16 + i] >> (8 * eight));
      }
    }
  }

  static void unpack_line(const std::uint8_t* line, std::uint32_t* words) {
    std::memset(words, 0, kBlockOutputs * sizeof(*words));
    for (int eight = 0; eight < kLineInputs / 8; ++eight) {
      for (int i = 0; i < 16; ++i) {
        words[i] |= std::uint32_t{line[eight * 32 + 2 * i]} << (8 * eight);
        words[16 + i] |= std::uint32_t{line[eight * 32 + 2 * i + 1]} << (8 * eight);
      }
    }
  }

  [[gnu::always_inline]] static void fetch(const std::uint8_t* at) { fetch_stream(at); }
};

}  // namespace
}  // namespace dualbinary
