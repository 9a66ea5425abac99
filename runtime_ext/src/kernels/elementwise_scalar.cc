// Norms, activations and sums one number after another, for CPUs that no other kernel fits.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>

#include "kernels/elementwise.h"
#include "kernels/exact.h"
#include "kernels/inventory.h"

namespace dualbinary {
namespace {

void load(const void* x, Element type, std::int64_t count, float* y) {
  for (std::int64_t i = 0; i < count; ++i) y[i] = static_cast<float>(load_element(x, type, i));
}

void rms_norm(const float* x, const float* weight, std::int64_t count, float epsilon, float* y) {
  double sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  const double factor = 1 / std::sqrt(sum / static_cast<double>(count) + static_cast<double>(epsilon));
  for (std::int64_t i = 0; i < count; ++i) y[i] = weight[i] * static_cast<float>(static_cast<double>(x[i]) * factor);
}

double activated(Activation activation, double x) {
  switch (activation) {
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kGeluTanh:
      return x / 2 * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
    case Activation::kGeluErf:
      return x / 2 * std::erfc(-x / std::numbers::sqrt2);
    case Activation::kSquaredRelu:
      break;
  }
  return std::max(x, 0.) * std::max(x, 0.);
}

void gate(Activation activation, const float* gate, const float* up, const float* gate_bias, const float* up_bias,
          std::int64_t count, float* y) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float g = gate_bias == nullptr ? gate[i] : gate[i] + gate_bias[i];
    const float u = up_bias == nullptr ? up[i] : up[i] + up_bias[i];
    y[i] = static_cast<float>(activated(activation, static_cast<double>(g)) * static_cast<double>(u));
  }
}

void add(const float* a, const float* b, const float* bias, std::int64_t count, Element type, void* y) {
  for (std::int64_t i = 0; i < count; ++i) {
    float sum = b[i];
    if (bias != nullptr) sum += bias[i];
    if (a != nullptr) sum += a[i];
    store_element(y, type, i, static_cast<double>(sum));
  }
}

}  // namespace

constinit const ElementwiseKernel elementwise_scalar = {"elementwise_scalar", Isa::kScalar, load, rms_norm, gate, add};

}  // namespace dualbinary
