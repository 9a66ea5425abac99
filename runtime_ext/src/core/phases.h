// Work in steps that wait for one another, in one parallel loop of the host: a loop for each step would cost 2 to 3 us.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "core/parallel.h"

namespace dualbinary {

// One step: body(i) for every i in [0, count), in any order, on any thread, when the step before is complete.
struct Phase {
  std::int64_t count;
  std::function<void(std::int64_t index)> body;
};

// Runs all phases in order, by at most `threads` threads of `parallel`, and returns when all are done. A thread that
// finds nothing left of a phase waits, spinning, for those that still work on it; none waits for a thread that has not
// begun, so that any number of threads, one too, completes the loop. An exception in a body ends the work: what comes
// after it in its phase, and later phases. Of several it is the first in this order that reaches the caller.
void run_phases(std::span<const Phase> phases, std::int64_t threads, const ParallelFor& parallel);

}  // namespace dualbinary
