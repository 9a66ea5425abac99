// Rows of keys and values, for any instruction set that has F32x16, sixteen float32 lanes: how a token's are rotated
// and stored in the cache, and what its numbers are multiplied by.
#pragma once

#include <cfloat>
#include <cstdint>
#include <cstring>

#include "kernels/attention.h"
#include "kernels/vector-inl.h"

namespace dualbinary {
namespace {

void rotate_any(float* head, const float* cos, const float* sin, std::int64_t half, bool interleaved) {
  if (interleaved) {
    for (std::int64_t i = 0; i < half; ++i) {
      const float a = head[2 * i];
      const float b = head[2 * i + 1];
      head[2 * i] = a * cos[i] - b * sin[i];
      head[2 * i + 1] = b * cos[i] + a * sin[i];
    }
    return;
  }
  for (std::int64_t i = 0; i < half; i += kLanes) {
    const std::int64_t left = half - i;
    const F32x16 a = load_some(head + i, left);
    const F32x16 b = load_some(head + half + i, left);
    const F32x16 c = load_some(cos + i, left);
    const F32x16 s = load_some(sin + i, left);
    store_some(F32x16::subtract(F32x16::multiply(a, c), F32x16::multiply(b, s)), head + i, left);
    store_some(F32x16::multiply_add(b, c, F32x16::multiply(a, s)), head + half + i, left);
  }
}

void store_int8(const float* head, std::int64_t size, std::uint8_t* row) {
  F32x16 most = F32x16::set(0);
  for (std::int64_t i = 0; i < size; i += kLanes) most = F32x16::max(most, load_some(head + i, size - i).absolute());
  float factor = most.reduce_max() / 127;
  // Anything that is no number has to stay none: 0 * NaN.
  bool finite = true;
  for (std::int64_t i = 0; i < size; ++i) finite = finite && head[i] - head[i] == 0;
  if (!finite) factor = __builtin_nanf("");
  // The inverse of a factor that is not normal may overflow: such a row is zeros.
  const bool usual = factor >= FLT_MIN;  // false for NaN
  const float inverse = usual ? 127 / most.reduce_max() : 0;
  if (finite && !usual) factor = 0;
  auto* numbers = reinterpret_cast<std::int8_t*>(row);
  for (std::int64_t i = 0; i < size; ++i) {
    numbers[i] = usual ? static_cast<std::int8_t>(F32x16::round_scalar(head[i] * inverse)) : std::int8_t{0};
  }
  std::memcpy(row + size, &factor, sizeof(factor));
}

void store_any(const float* head, std::int64_t size, CacheType type, std::uint8_t* row) {
  if (type == CacheType::kInt8) return store_int8(head, size, row);
  for (std::int64_t i = 0; i < size; i += kLanes) {
    const F32x16 v = load_some(head + i, size - i);
    if (type == CacheType::kFloat16) {
      store_some(v, reinterpret_cast<std::uint16_t*>(row) + i, size - i);
    } else {
      store_some(v, reinterpret_cast<float*>(row) + i, size - i);
    }
  }
}

// What the numbers of a row are multiplied by.
template <class T>
[[gnu::always_inline]] inline float factor_of(const std::uint8_t* row, std::int64_t size) {
  if constexpr (sizeof(T) > 1) return 1;
  float factor;
  std::memcpy(&factor, row + size, sizeof(factor));
  return factor;
}

// The factors of `count` rows side by side, and ones up to the next multiple of sixteen.
template <class T>
void read_factors(const std::uint8_t* rows, std::int64_t row_bytes, std::int64_t size, std::int64_t count,
                  float* factors) {
  for (std::int64_t k = 0; k < count; ++k) factors[k] = factor_of<T>(rows + k * row_bytes, size);
  for (std::int64_t k = count; k % kLanes != 0; ++k) factors[k] = 1;
}

}  // namespace
}  // namespace dualbinary
