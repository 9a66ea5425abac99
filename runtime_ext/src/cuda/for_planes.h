// From a number of planes to code that is compiled for it.
#pragma once

#include <stdexcept>

namespace dualbinary::cuda {

// Calls body.operator()<P>() for the number of planes.
template <class Body>
auto for_planes(int planes, const Body& body) {
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
