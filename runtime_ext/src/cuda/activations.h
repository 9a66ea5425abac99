// Activations as the kernels for few rows want them: integers of 8 or 16 bits with a step for each row and input tile.
#pragma once

#include <cstdint>

#include "cuda/packed.h"
#include "cuda/simt/simt.h"

namespace dualbinary::cuda {

enum class Type { kFloat32, kFloat16, kBfloat16 };

// X [rows, K] of `type`.
struct Activations {
  const void* data;
  Type type;
  int rows;
};

DUALBINARY_DEVICE float load_value(const void* data, Type type, std::int64_t index) {
  if (type == Type::kFloat32) return static_cast<const float*>(data)[index];
  const std::uint16_t bits = static_cast<const std::uint16_t*>(data)[index];
  return type == Type::kFloat16 ? simt::half_to_float(bits) : simt::bfloat_to_float(bits);
}

DUALBINARY_DEVICE void store_value(void* data, Type type, std::int64_t index, float value) {
  if (type == Type::kFloat32) {
    static_cast<float*>(data)[index] = value;
  } else {
    static_cast<std::uint16_t*>(data)[index] =
        type == Type::kFloat16 ? simt::float_to_half(value) : simt::float_to_bfloat(value);
  }
}

inline constexpr int kLaneInputs = 32;  // of a tile, for one t: the bits of a word

// Below this, 1 / step would overflow; such a tile counts as zeros, an error below 1e-30 a weight of one.
inline constexpr float kSmallestMagnitude = 1e-30f;

// The 32 inputs of lane t in a tile of a row, in the order of the bits of packed.h, as integers of kBits bits, and the
// step that is one. Lanes 4 i to 4 i + 3 of a warp must ask for t = 0 to 3 of one tile together, as they share the
// step. A tile with NaN or infinity has the step NaN and integers 0.
template <int kBits>
DUALBINARY_DEVICE float quantise(const Activations& x, std::int64_t row, int K, int tile, int t,
                                 int (&q)[kLaneInputs]) {
  constexpr float kRange = static_cast<float>((1 << (kBits - 1)) - 1);
  float values[kLaneInputs];
  float largest = 0;
  bool finite = true;
  DUALBINARY_UNROLL
  for (int i = 0; i < kLaneInputs; ++i) {
    const int k = tile * kTileInputs + input_of_bit(t, i);
    values[i] = k < K ? load_value(x.data, x.type, row * K + k) : 0.0f;
    const float magnitude = values[i] < 0 ? -values[i] : values[i];
    finite = finite && simt::finite(values[i]);
    largest = magnitude > largest ? magnitude : largest;
  }
  if (!finite) largest = simt::not_a_number();
  DUALBINARY_UNROLL
  for (int mask = 1; mask <= 2; mask *= 2) {
    const float other = simt::shuffle_xor(largest, mask);
    largest = other > largest || other != other ? other : largest;
  }
  const bool usable = largest >= kSmallestMagnitude;  // false for NaN
  const float inverse = usable ? kRange / largest : 0.0f;
  DUALBINARY_UNROLL
  for (int i = 0; i < kLaneInputs; ++i) q[i] = usable ? simt::round_to_int(values[i] * inverse) : 0;
  return usable ? largest / kRange : largest != largest ? largest : 0.0f;
}

// Eight words from 32 integers: bit i of word j is bit `first` + j of q[i].
DUALBINARY_DEVICE void to_bit_planes(const int (&q)[kLaneInputs], int first, std::uint32_t (&words)[8]) {
  // Word j begins with byte b = the low byte of q[8 b + j]; then an 8x8 transposition of bits in each byte lane.
  DUALBINARY_UNROLL
  for (int j = 0; j < 8; ++j) {
    std::uint32_t word = 0;
    DUALBINARY_UNROLL
    for (int b = 0; b < 4; ++b) word |= (static_cast<std::uint32_t>(q[8 * b + j]) >> first & 0xffu) << 8 * b;
    words[j] = word;
  }
  constexpr std::uint32_t kMasks[3] = {0x55555555u, 0x33333333u, 0x0f0f0f0fu};
  DUALBINARY_UNROLL
  for (int level = 0; level < 3; ++level) {
    const int distance = 1 << level;
    DUALBINARY_UNROLL
    for (int j = 0; j < 8; ++j) {
      if ((j & distance) != 0) continue;
      std::uint32_t& low = words[j];
      std::uint32_t& high = words[j + distance];
      const std::uint32_t swapped = (low >> distance ^ high) & kMasks[level];
      high ^= swapped;
      low ^= swapped << distance;
    }
  }
}

// Eight words of four bytes: byte b of word i is byte `index` of q[8 b + i].
DUALBINARY_DEVICE void to_bytes(const int (&q)[kLaneInputs], int index, std::uint32_t (&words)[8]) {
  DUALBINARY_UNROLL
  for (int i = 0; i < 8; ++i) {
    std::uint32_t word = 0;
    DUALBINARY_UNROLL
    for (int b = 0; b < 4; ++b) word |= (static_cast<std::uint32_t>(q[8 * b + i]) >> 8 * index & 0xffu) << 8 * b;
    words[i] = word;
  }
}

}  // namespace dualbinary::cuda
