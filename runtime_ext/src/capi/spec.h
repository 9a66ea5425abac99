// The only place where a dualbinary_spec of the plain C interface and a Spec of the core become one another.
#pragma once

#include <cstdint>

#include "capi/dualbinary.h"
#include "capi/guarded.h"
#include "kernels/kernel.h"

namespace dualbinary::capi {

// Throws std::invalid_argument where the type of the scales is none; everything else is checked_shape()'s to check.
inline Spec from_c(const dualbinary_spec& s) {
  const auto type = static_cast<Element>(s.scale_type);  // an Element is a dualbinary_type
  require(
      type == Element::kFloat32 || type == Element::kFloat16 || type == Element::kCode8 || type == Element::kBFloat16,
      "scale_type: expected type 0 (float32), 1 (float16), 2 (uint8) or 3 (bfloat16), got " +
          std::to_string(s.scale_type));
  return {s.K,      s.N,          s.group_size,    s.planes, s.scale_rows, s.layout, s.accuracy_level,
          s.levels, s.twice_zero, s.scale_outputs, type};
}

inline dualbinary_spec to_c(const Spec& s) {
  const auto type = static_cast<std::int32_t>(s.scale_type);
  return {s.K,      s.N,          s.group_size,    s.planes, s.scale_rows, s.layout, s.accuracy_level,
          s.levels, s.twice_zero, s.scale_outputs, type};
}

}  // namespace dualbinary::capi
