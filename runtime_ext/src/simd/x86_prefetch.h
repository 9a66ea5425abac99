// Software prefetch of a forward stream, for x86.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace dualbinary {
namespace {

// The packed stream is fetched in two steps: far ahead into L2, and into L1 shortly before it is read. One core's
// out-of-order window covers about 20 cache lines of this code, DRAM latency times bandwidth is about 50 and more;
// without it time is compute plus memory. All of it at once into L1 keeps L1's few buffers for misses busy for the
// whole latency of DRAM, and other loads wait: that took 1.1 to 1.5 times as long on a Zen 4 at M = 1, and a single
// step into L2 up to 1.1 times (docs/log/kernels.md).
constexpr std::size_t kFarBytes = 12 << 10;
constexpr std::size_t kNearBytes = 3 << 10;

// Both are to be called for every cache line of the stream when it is read, in order, and not for many at once: a burst
// of requests takes up the buffers that other loads need, which cost 13 to 29 % of the time at M=1.
//
// So the compiler must keep them apart, and it would move an intrinsic. Always inlined: GCC takes a function that does
// nothing else for one without effects, and drops calls of it.
template <int kHint>
[[gnu::always_inline]] inline void prefetch(const std::uint8_t* p) {
#if defined(__GNUC__)
  if constexpr (kHint == 0) {
    asm volatile("prefetcht0 %0" : : "m"(*p));
  } else {
    asm volatile("prefetcht1 %0" : : "m"(*p));
  }
#else
  _mm_prefetch(reinterpret_cast<const char*>(p), kHint == 0 ? _MM_HINT_T0 : _MM_HINT_T1);
#endif
}

// One row of tables: the stream passes within a microsecond, and L1 holds what is near.
[[gnu::always_inline]] inline void fetch_stream(const std::uint8_t* p) {
  prefetch<1>(p + kFarBytes);
  prefetch<0>(p + kNearBytes);
}

// Many rows: tables of several segments pass through L1 before what is near is read, so only the line that comes `next`
// bytes later is fetched into it. The far distance is the same for all: where scales were fetched at another one than
// the lines around them, a line of each group was left out, and two rows took 1.2 times as long.
[[gnu::always_inline]] inline void fetch_blocks(const std::uint8_t* p, std::size_t next) {
  prefetch<1>(p + kFarBytes);
  prefetch<0>(p + next);
}

}  // namespace
}  // namespace dualbinary
