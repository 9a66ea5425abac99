// Activations as the kernels for few rows take them: integers of 8 or 16 bits with a step for each row and input tile.
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
  bool pairs;  // K is even and the data so aligned that two neighbors are one load
};

DUALBINARY_DEVICE float load_value(const void* data, Type type, std::int64_t index) {
  if (type == Type::kFloat32) return static_cast<const float*>(data)[index];
  const std::uint16_t bits = static_cast<const std::uint16_t*>(data)[index];
  return type == Type::kFloat16 ? simt::f16_to_float(bits) : simt::bf16_to_float(bits);
}

DUALBINARY_DEVICE void store_value(void* data, Type type, std::int64_t index, float value) {
  if (type == Type::kFloat32) {
    static_cast<float*>(data)[index] = value;
  } else {
    static_cast<std::uint16_t*>(data)[index] =
        type == Type::kFloat16 ? simt::float_to_f16(value) : simt::float_to_bf16(value);
  }
}

inline constexpr int kLaneInputs = 32;  // of a tile, for one t: the bits of a word

// Below this, 1 / step would overflow; such a tile counts as zeros, an error below 1e-30 a weight of one.
inline constexpr float kSmallestMagnitude = 1e-30f;

// Two neighbors from an even index on, by one load.
DUALBINARY_DEVICE void load_pair(const void* data, Type type, std::int64_t index, float& first, float& second) {
  if (type == Type::kFloat32) {
    const simt::Words2 both = static_cast<const simt::Words2*>(data)[index / 2];
    first = simt::float_of(both.w[0]);
    second = simt::float_of(both.w[1]);
    return;
  }
  const std::uint32_t both = static_cast<const std::uint32_t*>(data)[index / 2];
  const auto low = static_cast<std::uint16_t>(both);
  const auto high = static_cast<std::uint16_t>(both >> 16);
  first = type == Type::kFloat16 ? simt::f16_to_float(low) : simt::bf16_to_float(low);
  second = type == Type::kFloat16 ? simt::f16_to_float(high) : simt::bf16_to_float(high);
}

// The inputs of lane t in tile `tile` of a row, in the order of the bits of packed.h; zeros past K.
template <Type kType>
DUALBINARY_DEVICE void load_inputs(const Activations& x, std::int64_t row, int K, int tile, int t,
                                   float (&values)[kLaneInputs]) {
  // Of this lane's first input; the others are at fixed distances from it.
  const int first = tile * kTileInputs + input_of_bit(t, 0);
  const auto* begin = static_cast<const char*>(x.data) + (row * K + first) * (kType == Type::kFloat32 ? 4 : 2);
  const int left = K - first;
  if (x.pairs) {
    DUALBINARY_UNROLL
    for (int pair = 0; pair < kLaneInputs / 2; ++pair) {
      // The second one's bit is four further.
      const int bit = pair / 4 * 8 + pair % 4;
      const int at = input_of_bit(0, bit);
      values[bit] = values[bit + 4] = 0;
      if (at < left) load_pair(begin, kType, at, values[bit], values[bit + 4]);
    }
    return;
  }
  DUALBINARY_UNROLL
  for (int bit = 0; bit < kLaneInputs; ++bit) {
    const int at = input_of_bit(0, bit);
    values[bit] = at < left ? load_value(begin, kType, at) : 0.0f;
  }
}

// The 32 inputs of lane t in a tile of a row as integers of kBits bits, in the low bits of q, and the step that is one.
// Lanes 4 i to 4 i + 3 of a warp must ask for t = 0 to 3 of one tile together, as they share the step. A tile with NaN
// or infinity has the step NaN and integers 0.
template <int kBits>
DUALBINARY_DEVICE float quantize(const Activations& x, std::int64_t row, int K, int tile, int t,
                                 std::uint32_t (&q)[kLaneInputs]) {
  constexpr float kRange = static_cast<float>((1 << (kBits - 1)) - 1);
  float values[kLaneInputs];
  if (x.type == Type::kFloat16) {
    load_inputs<Type::kFloat16>(x, row, K, tile, t, values);
  } else if (x.type == Type::kFloat32) {
    load_inputs<Type::kFloat32>(x, row, K, tile, t, values);
  } else {
    load_inputs<Type::kBfloat16>(x, row, K, tile, t, values);
  }
  float largest = 0;
  DUALBINARY_UNROLL
  for (int i = 0; i < kLaneInputs; ++i) largest = simt::larger_magnitude(largest, values[i]);
  largest = simt::larger_magnitude(largest, simt::shuffle_xor(largest, 1));
  largest = simt::larger_magnitude(largest, simt::shuffle_xor(largest, 2));
  const bool usable = largest >= kSmallestMagnitude && simt::finite(largest);  // false for NaN
  const float inverse = usable ? kRange / largest : 0.0f;
  DUALBINARY_UNROLL
  for (int i = 0; i < kLaneInputs; ++i) q[i] = usable ? simt::round_product(values[i], inverse) : 0;
  if (usable) return largest / kRange;
  return simt::finite(largest) ? 0.0f : simt::not_a_number();
}

// Byte `index` of four words, as one.
DUALBINARY_DEVICE std::uint32_t gather_bytes(std::uint32_t a, std::uint32_t b, std::uint32_t c, std::uint32_t d,
                                             int index) {
  const std::uint32_t selector = static_cast<std::uint32_t>(index) * 0x11 + 0x40;
  return simt::permute_bytes(simt::permute_bytes(a, b, selector), simt::permute_bytes(c, d, selector), 0x5410);
}

// Eight words of four bytes: byte b of word i is byte `index` of q[8 b + i].
DUALBINARY_DEVICE void to_bytes(const std::uint32_t (&q)[kLaneInputs], int index, std::uint32_t (&words)[8]) {
  DUALBINARY_UNROLL
  for (int i = 0; i < 8; ++i) words[i] = gather_bytes(q[i], q[8 + i], q[16 + i], q[24 + i], index);
}

// Eight words from 32 integers: bit i of word j is bit j of byte `index` of q[i].
DUALBINARY_DEVICE void to_bit_planes(const std::uint32_t (&q)[kLaneInputs], int index, std::uint32_t (&words)[8]) {
  // Byte b of word i is that of q[8 b + i]; what is left is the transposition of 8x8 bits in each byte lane.
  to_bytes(q, index, words);
  constexpr std::uint32_t kMasks[3] = {0x55555555u, 0x33333333u, 0x0f0f0f0fu};
  DUALBINARY_UNROLL
  for (int level = 0; level < 3; ++level) {
    const int distance = 1 << level;
    DUALBINARY_UNROLL
    for (int j = 0; j < 8; ++j) {
      if ((j & distance) != 0) continue;
      std::uint32_t& low = words[j];
      std::uint32_t& high = words[j + distance];
      const std::uint32_t kept = (low & kMasks[level]) | (high & kMasks[level]) << distance;
      high = (low >> distance & kMasks[level]) | (high & ~kMasks[level]);
      low = kept;
    }
  }
}

}  // namespace dualbinary::cuda
