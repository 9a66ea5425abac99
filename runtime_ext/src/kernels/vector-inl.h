// What the kernels of blocks share, for any instruction set that has F32x16: parts of a vector, and exp.
#pragma once

#include <cstdint>
#include <cstring>

namespace dualbinary {
namespace {

constexpr std::int64_t kLanes = 16;

// Up to sixteen numbers at p; lanes from `count` on are 0.
template <class T>
[[gnu::always_inline]] inline F32x16 load_some(const T* p, std::int64_t count) {
  if (count >= kLanes) return F32x16::load(p);
  T padded[kLanes] = {};
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(p);  // of a table that may begin at any byte
  if (count > 0) std::memcpy(padded, bytes, static_cast<std::size_t>(count) * sizeof(T));
  return F32x16::load(padded);
}

template <class T>
[[gnu::always_inline]] inline void store_some(F32x16 x, T* p, std::int64_t count) {
  if (count >= kLanes) return x.store(p);
  T padded[kLanes];
  x.store(padded);
  for (std::int64_t i = 0; i < count; ++i) p[i] = padded[i];
}

// e^x, with x taken between the logarithms of the smallest and the largest normal float.
[[gnu::always_inline]] inline F32x16 exp_of(F32x16 x) {
  // A NaN is the second operand, which x86 returns.
  x = F32x16::min(F32x16::set(88.3762F), F32x16::max(F32x16::set(-87.3365F), x));
  const F32x16 magic = F32x16::set(12582912.F);  // 1.5 * 2^23: adding it rounds to an integer
  const F32x16 n = F32x16::subtract(F32x16::multiply_add(x, F32x16::set(1.44269504F), magic), magic);
  F32x16 r = F32x16::multiply_add(n, F32x16::set(-0.693359375F), x);  // log(2) in two parts: the first product is exact
  r = F32x16::multiply_add(n, F32x16::set(2.12194440e-4F), r);
  F32x16 sum = F32x16::set(1.F / 5040);
  constexpr float kFactors[] = {1.F / 720, 1.F / 120, 1.F / 24, 1.F / 6, 1.F / 2, 1.F, 1.F};
  for (const float factor : kFactors) {
    sum = F32x16::multiply_add(sum, r, F32x16::set(factor));
  }
  return F32x16::times_power_of_two(sum, n);
}

}  // namespace
}  // namespace dualbinary
