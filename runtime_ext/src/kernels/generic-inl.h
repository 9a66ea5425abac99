// Sixteen float32 lanes as four short vectors, which GCC and Clang compile for any CPU, for those that no instruction
// set here fits. As plain numbers they took GCC three times as long, and prompts two to three times. What
// goes lane by lane is no part of each caller: inlined, it was a sixth of the rest of that time.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/exact.h"

namespace dualbinary {
namespace {

struct F32x16 {
  using Four = float __attribute__((vector_size(16)));
  using FourBits = std::uint32_t __attribute__((vector_size(16)));
  Four v[4];

  template <class Operation>
  [[gnu::always_inline]] static F32x16 each(Operation operation) {
    return {operation(0), operation(1), operation(2), operation(3)};
  }
  // For what has no vectors: lane by lane.
  template <class Operation>
  static F32x16 lanes(Operation operation) {
    float lanes[16];
    for (int i = 0; i < 16; ++i) lanes[i] = operation(i);
    return load(lanes);
  }
  static F32x16 set(float x) {
    return each([&](int) { return Four{x, x, x, x}; });
  }
  static F32x16 load(const float* p) {
    F32x16 result;
    std::memcpy(result.v, p, sizeof(result.v));
    return result;
  }
  [[gnu::noinline]] static F32x16 load(const std::uint16_t* p) {
    return lanes([&](int i) { return static_cast<float>(load_element(p, Element::kFloat16, i)); });
  }
  static F32x16 load(const std::int8_t* p) {
    using Bytes = std::int8_t __attribute__((vector_size(16)));
    using Shorts = std::int16_t __attribute__((vector_size(32)));
    using Ints = std::int32_t __attribute__((vector_size(64)));
    using Floats = float __attribute__((vector_size(64)));
    Bytes bytes;
    std::memcpy(&bytes, p, sizeof(bytes));
    // Step by step, as there are instructions: in one, compilers go byte by byte.
    const Ints ints = __builtin_convertvector(__builtin_convertvector(bytes, Shorts), Ints);
    const Floats floats = __builtin_convertvector(ints, Floats);
    F32x16 result;
    std::memcpy(result.v, &floats, sizeof(floats));
    return result;
  }
  static F32x16 add(F32x16 x, F32x16 y) {
    return each([&](int i) { return x.v[i] + y.v[i]; });
  }
  static F32x16 subtract(F32x16 x, F32x16 y) {
    return each([&](int i) { return x.v[i] - y.v[i]; });
  }
  static F32x16 multiply(F32x16 x, F32x16 y) {
    return each([&](int i) { return x.v[i] * y.v[i]; });
  }
  static F32x16 multiply_add(F32x16 x, F32x16 y, F32x16 z) {
    return each([&](int i) { return x.v[i] * y.v[i] + z.v[i]; });
  }
  static F32x16 divide(F32x16 x, F32x16 y) {
    return each([&](int i) { return x.v[i] / y.v[i]; });
  }
  // The second operand where one is NaN, as on x86.
  static F32x16 max(F32x16 x, F32x16 y) {
    return each([&](int i) { return x.v[i] > y.v[i] ? x.v[i] : y.v[i]; });
  }
  static F32x16 min(F32x16 x, F32x16 y) {
    return each([&](int i) { return x.v[i] < y.v[i] ? x.v[i] : y.v[i]; });
  }
  [[gnu::noinline]] static F32x16 times_power_of_two(F32x16 x, F32x16 n) {
    float a[16];
    float b[16];
    x.store(a);
    n.store(b);
    return lanes([&](int i) { return b[i] == b[i] ? std::ldexp(a[i], static_cast<int>(b[i])) : b[i]; });
  }
  static std::int32_t round_scalar(float x) { return static_cast<std::int32_t>(std::nearbyint(x)); }

  void store(float* p) const { std::memcpy(p, v, sizeof(v)); }
  [[gnu::noinline]] void store(std::uint16_t* p) const {
    float lanes[16];
    store(lanes);
    for (int i = 0; i < 16; ++i) store_element(p, Element::kFloat16, i, static_cast<double>(lanes[i]));
  }
  F32x16 absolute() const {
    return each([&](int i) { return reinterpret_cast<Four>(reinterpret_cast<FourBits>(v[i]) & 0x7fffffffU); });
  }
  static void reduce_add_four(const F32x16* four, float* sums) {
    for (int i = 0; i < 4; ++i) sums[i] = four[i].reduce_add();
  }
  float reduce_add() const {
    float lanes[16];
    store(lanes);
    float sum = 0;
    for (const float x : lanes) sum += x;
    return sum;
  }
  float reduce_max() const {
    float lanes[16];
    store(lanes);
    return *std::max_element(lanes, lanes + 16);
  }
};

}  // namespace
}  // namespace dualbinary
