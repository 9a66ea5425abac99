// The elementwise kernels for any instruction set that has F32x16, sixteen float32 lanes.
#pragma once

#include <cfloat>
#include <cstdint>

#include "kernels/elementwise.h"
#include "kernels/vector-inl.h"

namespace dualbinary {
namespace {

// x / (1 + e^-t).
[[gnu::always_inline]] inline F32x16 by_sigmoid(F32x16 x, F32x16 t) {
  const F32x16 e = exp_of(F32x16::subtract(F32x16::set(0), t));
  return F32x16::divide(x, F32x16::add(e, F32x16::set(1)));
}

[[gnu::always_inline]] inline F32x16 gelu_tanh(F32x16 x) {
  // (1 + tanh(u)) / 2 = 1 / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3)
  const F32x16 square = F32x16::multiply(x, x);
  const F32x16 factor = F32x16::multiply_add(square, F32x16::set(0.07135481F), F32x16::set(1.59576912F));
  return by_sigmoid(x, F32x16::multiply(x, factor));
}

[[gnu::always_inline]] inline F32x16 gelu_erf(F32x16 x) {
  const F32x16 z = F32x16::multiply(x.absolute(), F32x16::set(0.70710678F));
  const F32x16 t = F32x16::divide(F32x16::set(1), F32x16::multiply_add(z, F32x16::set(0.3275911F), F32x16::set(1)));
  F32x16 sum = F32x16::set(1.061405429F);
  constexpr float kFactors[] = {-1.453152027F, 1.421413741F, -0.284496736F, 0.254829592F};
  for (const float factor : kFactors) {
    sum = F32x16::multiply_add(sum, t, F32x16::set(factor));
  }
  const F32x16 e = exp_of(F32x16::subtract(F32x16::set(0), F32x16::multiply(z, z)));
  const F32x16 tail = F32x16::multiply(F32x16::multiply(sum, t), e);  // 1 - erf(|x| / sqrt(2))
  // x (1 + erf) / 2 is x - x tail / 2 for positive x and x tail / 2 for others
  const F32x16 half = F32x16::multiply(F32x16::multiply(x.absolute(), tail), F32x16::set(0.5F));
  return F32x16::subtract(F32x16::max(x, F32x16::set(0)), half);
}

template <Activation kActivation>
[[gnu::always_inline]] inline F32x16 activation_of(F32x16 x) {
  if constexpr (kActivation == Activation::kSilu) return by_sigmoid(x, x);
  if constexpr (kActivation == Activation::kGeluTanh) return gelu_tanh(x);
  if constexpr (kActivation == Activation::kGeluErf) return gelu_erf(x);
  const F32x16 positive = F32x16::max(F32x16::set(0), x);  // in this order: of NaN it is NaN
  return F32x16::multiply(positive, positive);
}

void load_any(const void* x, Element type, std::int64_t count, float* y) {
  for (std::int64_t i = 0; i < count; i += kLanes) {
    const std::int64_t left = count - i;
    const F32x16 v = type == Element::kFloat16 ? load_some(static_cast<const std::uint16_t*>(x) + i, left)
                                               : load_some(static_cast<const float*>(x) + i, left);
    store_some(v, y + i, left);
  }
}

// The sum of squares of x * scale.
float sum_of_squares(const float* x, std::int64_t count, float scale) {
  F32x16 sums[4] = {F32x16::set(0), F32x16::set(0), F32x16::set(0), F32x16::set(0)};
  for (std::int64_t i = 0; i < count; i += kLanes) {
    const F32x16 v = F32x16::multiply(load_some(x + i, count - i), F32x16::set(scale));
    F32x16& sum = sums[i / kLanes % 4];
    sum = F32x16::multiply_add(v, v, sum);
  }
  return F32x16::add(F32x16::add(sums[0], sums[1]), F32x16::add(sums[2], sums[3])).reduce_add();
}

// 1 / sqrt(mean of x^2 + epsilon). Squares beyond float32 are taken of x * kSmall, and epsilon is nothing beside them.
float norm_factor(const float* x, std::int64_t count, float epsilon) {
  constexpr float kSmall = 0x1p-100F;
  const float sum = sum_of_squares(x, count, 1);
  const auto numbers = static_cast<float>(count);
  if (sum <= FLT_MAX || sum != sum) return 1 / __builtin_sqrtf(sum / numbers + epsilon);
  return kSmall / __builtin_sqrtf(sum_of_squares(x, count, kSmall) / numbers);
}

void rms_norm_any(const float* x, const float* weight, std::int64_t count, float epsilon, float* y) {
  const F32x16 factor = F32x16::set(norm_factor(x, count, epsilon));
  for (std::int64_t i = 0; i < count; i += kLanes) {
    const std::int64_t left = count - i;
    const F32x16 v = F32x16::multiply(load_some(x + i, left), factor);
    store_some(F32x16::multiply(v, load_some(weight + i, left)), y + i, left);
  }
}

template <Activation kActivation>
void gate_of(const float* gate, const float* up, const float* gate_bias, const float* up_bias, std::int64_t count,
             float* y) {
  for (std::int64_t i = 0; i < count; i += kLanes) {
    const std::int64_t left = count - i;
    F32x16 g = load_some(gate + i, left);
    F32x16 u = load_some(up + i, left);
    if (gate_bias != nullptr) {
      g = F32x16::add(g, load_some(gate_bias + i, left));
      u = F32x16::add(u, load_some(up_bias + i, left));
    }
    store_some(F32x16::multiply(activation_of<kActivation>(g), u), y + i, left);
  }
}

void gate_any(Activation activation, const float* gate, const float* up, const float* gate_bias, const float* up_bias,
              std::int64_t count, float* y) {
  switch (activation) {
    case Activation::kSilu:
      return gate_of<Activation::kSilu>(gate, up, gate_bias, up_bias, count, y);
    case Activation::kGeluTanh:
      return gate_of<Activation::kGeluTanh>(gate, up, gate_bias, up_bias, count, y);
    case Activation::kGeluErf:
      return gate_of<Activation::kGeluErf>(gate, up, gate_bias, up_bias, count, y);
    case Activation::kSquaredRelu:
      return gate_of<Activation::kSquaredRelu>(gate, up, gate_bias, up_bias, count, y);
  }
}

void add_any(const float* a, const float* b, const float* bias, std::int64_t count, Element type, void* y) {
  for (std::int64_t i = 0; i < count; i += kLanes) {
    const std::int64_t left = count - i;
    F32x16 sum = load_some(b + i, left);
    if (bias != nullptr) sum = F32x16::add(sum, load_some(bias + i, left));
    if (a != nullptr) sum = F32x16::add(sum, load_some(a + i, left));
    if (type == Element::kFloat16) {
      store_some(sum, static_cast<std::uint16_t*>(y) + i, left);
    } else {
      store_some(sum, static_cast<float*>(y) + i, left);
    }
  }
}

}  // namespace
}  // namespace dualbinary
