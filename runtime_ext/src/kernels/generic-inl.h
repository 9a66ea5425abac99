// Sixteen float32 lanes in plain C++, for the kernels of CPUs that no instruction set here fits.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/exact.h"

namespace dualbinary {
namespace {

struct F32x16 {
  float v[16];

  template <class Operation>
  static F32x16 each(Operation operation) {
    F32x16 result;
    for (int i = 0; i < 16; ++i) result.v[i] = operation(i);
    return result;
  }
  static F32x16 set(float x) {
    return each([&](int) { return x; });
  }
  static F32x16 load(const float* p) {
    return each([&](int i) { return p[i]; });
  }
  static F32x16 load(const std::uint16_t* p) {
    return each([&](int i) { return static_cast<float>(load_element(p, Element::kFloat16, i)); });
  }
  static F32x16 load(const std::int8_t* p) {
    return each([&](int i) { return static_cast<float>(p[i]); });
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
  static F32x16 times_power_of_two(F32x16 x, F32x16 n) {
    return each([&](int i) { return n.v[i] == n.v[i] ? std::ldexp(x.v[i], static_cast<int>(n.v[i])) : n.v[i]; });
  }
  static std::int32_t round_scalar(float x) { return static_cast<std::int32_t>(std::nearbyint(x)); }

  void store(float* p) const { std::copy(v, v + 16, p); }
  void store(std::uint16_t* p) const {
    for (int i = 0; i < 16; ++i) store_element(p, Element::kFloat16, i, static_cast<double>(v[i]));
  }
  F32x16 absolute() const {
    return each([&](int i) { return std::fabs(v[i]); });
  }
  static void reduce_add_four(const F32x16* four, float* sums) {
    for (int i = 0; i < 4; ++i) sums[i] = four[i].reduce_add();
  }
  float reduce_add() const {
    float sum = 0;
    for (const float x : v) sum += x;
    return sum;
  }
  float reduce_max() const { return *std::max_element(v, v + 16); }
};

}  // namespace
}  // namespace dualbinary
