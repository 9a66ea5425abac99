// Calls of code that is compiled for a number of planes.
#pragma once

#include <stdexcept>

#include "contract.h"

namespace dualbinary::cuda {

// Calls body.operator()<P>() for the number of planes.
template <class Body>
auto for_planes(int planes, const Body& body) {
  static_assert(contract::kCudaMaxPlanes == 4, "one case for each number of planes");
  switch (planes) {
    case 1:
      return body.template operator()<1>();
    case 2:
      return body.template operator()<2>();
    case 3:
      return body.template operator()<3>();
    case 4:
      return body.template operator()<4>();
    default:
      throw std::logic_error("planes were not checked");
  }
}

}  // namespace dualbinary::cuda
