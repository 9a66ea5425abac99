#include "kernels/exact.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "contract.h"
#include "kernels/inventory.h"

namespace dualbinary {

constinit const MatMulKernel exact_f64_scalar = {.name = "exact_f64_scalar",
                                                 .isa = Isa::kScalar,
                                                 .accuracy_level = 0,
                                                 .layout = contract::kLayoutPlain,
                                                 .free_levels = true,
                                                 .even_levels = true,
                                                 .block_outputs = 1,
                                                 .packed_as = nullptr,
                                                 .min_rows = nullptr,
                                                 .block_bytes = nullptr,
                                                 .pack_block = nullptr,
                                                 .unpack_block = nullptr,
                                                 .prepared_bytes = nullptr,
                                                 .prepare_row = nullptr,
                                                 .multiply = nullptr};

namespace {

// IEEE binary16: 1 sign bit, 5 exponent bits with bias 15, 10 mantissa bits.
constexpr int kF16MantissaBits = 10;
constexpr int kF16MinExponent = -14;
constexpr unsigned kF16ExponentMask = 0x7c00;
constexpr unsigned kF16MantissaMask = 0x03ff;
constexpr unsigned kF16Sign = 0x8000;
constexpr unsigned kF16QuietNan = 0x7e00;
constexpr double kF16Overflow = 65520;  // halfway between the largest value and the next step: rounds to infinity

double f16_to_double(std::uint16_t bits) {
  const int exponent = static_cast<int>((bits & kF16ExponentMask) >> kF16MantissaBits);
  const int mantissa = static_cast<int>(bits & kF16MantissaMask);
  double value = 0;
  if (exponent == 31) {
    value = mantissa != 0 ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity();
  } else if (exponent == 0) {
    value = std::ldexp(mantissa, kF16MinExponent - kF16MantissaBits);
  } else {
    value = std::ldexp(mantissa + (1 << kF16MantissaBits), exponent - 1 + kF16MinExponent - kF16MantissaBits);
  }
  return (bits & kF16Sign) != 0 ? -value : value;
}

// Rounds once, to nearest even: going through float would round twice.
std::uint16_t double_to_f16(double value) {
  const unsigned sign = std::signbit(value) ? kF16Sign : 0;
  const double magnitude = std::fabs(value);
  unsigned bits = 0;
  if (std::isnan(value)) {
    bits = kF16QuietNan;
  } else if (magnitude >= kF16Overflow) {
    bits = kF16ExponentMask;
  } else if (magnitude > 0) {
    const int exponent = std::max(std::ilogb(magnitude), kF16MinExponent);
    // For a normal number this holds the hidden bit too, which the sum below carries into the exponent field.
    const auto mantissa = static_cast<unsigned>(std::nearbyint(std::ldexp(magnitude, kF16MantissaBits - exponent)));
    bits = (static_cast<unsigned>(exponent - kF16MinExponent) << kF16MantissaBits) + mantissa;
  }
  return static_cast<std::uint16_t>(sign | bits);
}

double load_scale(const Shape& shape, const void* scales, std::int64_t c, std::int64_t n, std::int64_t g) {
  const std::int64_t row = c * shape.scale_outputs + (shape.scale_outputs == 1 ? 0 : n);
  if (shape.scale_type != Element::kCode8) return load_element(scales, shape.scale_type, row * shape.groups + g);
  const std::uint8_t* bytes = static_cast<const std::uint8_t*>(scales) + row * (kFactorBytes + shape.groups);
  const double factor = f16_to_double(static_cast<std::uint16_t>(bytes[0] | bytes[1] << 8));
  return factor * static_cast<double>(bytes[kFactorBytes + g] - kCodeZero) / static_cast<double>(kCodeUnit);
}

// Sum of the inputs that the bits of one plane's group select.
double selected_sum(const std::uint8_t* bits, const double* x, std::int64_t count) {
  double sum = 0;
  for (std::int64_t k = 0; k < count; k += 8) {
    for (unsigned byte = bits[k / 8]; byte != 0; byte &= byte - 1) sum += x[k + std::countr_zero(byte)];
  }
  return sum;
}

// The zero point of a group of even levels.
double load_zero(const Shape& shape, const std::uint8_t* planes, std::int64_t n, std::int64_t g) {
  if (shape.twice_zero != kGroupZeros) return static_cast<double>(shape.twice_zero) / 2;
  unsigned zero = 0;
  for (std::int64_t p = 0; p < shape.planes; ++p) {
    const std::uint8_t* bits = planes + (p * shape.N + n) * shape.row_bytes + shape.groups * shape.group_size / 8;
    zero |= (bits[g / 8] >> (g % 8) & 1U) << p;
  }
  return zero;
}

// The scale that row c of the formula has, c <= P: of free levels the stored one, of even levels what follows from the
// step. Row P is the offset.
double formula_scale(const Shape& shape, const Stored& stored, std::int64_t c, std::int64_t n, std::int64_t g) {
  if (shape.levels == kFreeLevels) return load_scale(shape, stored.scales, c, n, g);
  if (c == shape.planes && shape.scale_rows > 1) return load_scale(shape, stored.scales, 1, n, g);
  const double step = load_scale(shape, stored.scales, 0, n, g);
  return c < shape.planes ? std::ldexp(step, static_cast<int>(c)) : -load_zero(shape, stored.planes, n, g) * step;
}

double exact_output(const Shape& shape, const Stored& stored, const double* x, std::int64_t n) {
  const bool even = shape.levels == kEvenLevels;
  const bool offset = even ? shape.scale_rows > 1 || shape.twice_zero != 0 : shape.scale_rows > shape.planes;
  double y = 0;
  for (std::int64_t g = 0; g < shape.groups; ++g) {
    const double* group = x + g * shape.group_size;
    for (std::int64_t p = 0; p < shape.planes; ++p) {
      const std::uint8_t* bits = stored.planes + (p * shape.N + n) * shape.row_bytes + g * shape.group_size / 8;
      y += formula_scale(shape, stored, p, n, g) * selected_sum(bits, group, shape.group_size);
    }
    if (!offset) continue;
    double sum = 0;
    for (std::int64_t k = 0; k < shape.group_size; ++k) sum += group[k];
    y += formula_scale(shape, stored, shape.planes, n, g) * sum;
  }
  return y;
}

}  // namespace

double load_element(const void* data, Element type, std::int64_t index) {
  // By bytes: an initializer may begin anywhere in the file that holds it.
  const auto* bytes = static_cast<const std::uint8_t*>(data);
  if (type == Element::kFloat32) {
    float value = 0;
    std::memcpy(&value, bytes + index * static_cast<std::int64_t>(sizeof(value)), sizeof(value));
    return value;
  }
  std::uint16_t bits = 0;
  std::memcpy(&bits, bytes + index * static_cast<std::int64_t>(sizeof(bits)), sizeof(bits));
  return type == Element::kBFloat16 ? std::bit_cast<float>(std::uint32_t{bits} << 16) : f16_to_double(bits);
}

void store_element(void* data, Element type, std::int64_t index, double value) {
  if (type == Element::kFloat32) {
    static_cast<float*>(data)[index] = static_cast<float>(value);
  } else {
    static_cast<std::uint16_t*>(data)[index] = double_to_f16(value);
  }
}

void exact_multiply(const Shape& shape, const Stored& stored, const double* x_row, void* y_row, Element y_type,
                    std::int64_t n_begin, std::int64_t n_end) {
  for (std::int64_t n = n_begin; n < n_end; ++n) store_element(y_row, y_type, n, exact_output(shape, stored, x_row, n));
}

void exact_load_row(const Shape& shape, const Activations& x, std::int64_t row, double* out) {
  const std::int64_t padded = shape.groups * shape.group_size;
  for (std::int64_t k = 0; k < shape.K; ++k) out[k] = load_element(x.data, x.type, row * shape.K + k);
  std::fill(out + shape.K, out + padded, 0.0);
}

bool all_finite(const void* data, Element type, std::int64_t begin, std::int64_t end) {
  // On the bits, without a branch, so that the compiler can vectorize it: every output of every product passes here.
  unsigned special = 0;
  if (type == Element::kFloat16) {
    const auto* bits = static_cast<const std::uint16_t*>(data);
    for (std::int64_t i = begin; i < end; ++i) special |= (bits[i] & kF16ExponentMask) == kF16ExponentMask ? 1 : 0;
  } else {
    constexpr std::uint32_t kFloatExponentMask = 0x7f800000;
    const auto* values = static_cast<const float*>(data);
    for (std::int64_t i = begin; i < end; ++i) {
      special |= (std::bit_cast<std::uint32_t>(values[i]) & kFloatExponentMask) == kFloatExponentMask ? 1 : 0;
    }
  }
  return special == 0;
}

}  // namespace dualbinary
