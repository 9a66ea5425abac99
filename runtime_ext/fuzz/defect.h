// How a fuzz target says that it has found something.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace dualbinary::fuzz {

// Ends the process in the way that fuzzers and sanitizers look for.
[[noreturn]] inline void defect(const char* what) {
  std::fprintf(stderr, "defect: %s\n", what);
  std::abort();
}

}  // namespace dualbinary::fuzz
