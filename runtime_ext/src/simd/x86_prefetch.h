// Software prefetch of a forward stream, for x86.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace dualbinary {
namespace {

// Distance from the kernel at which the packed stream is fetched. One core's out-of-order window covers about 20 cache
// lines of this code, DRAM latency times bandwidth is about 50 and more; without it time is compute plus memory. At M=1
// on Zen 5, 2 KiB were 7 to 28 % slower than 6 and 8 KiB; fetching into L2 only was 12 to 20 % slower than into L1. On
// a busy Zen 4, 4 KiB were up to 5 % faster than 6 and 8 KiB (docs/log/kernels.md).
constexpr std::size_t kPrefetchBytes = 4096;

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

// One row of tables: the stream passes within a microsecond, and L1 holds what is ahead.
[[gnu::always_inline]] inline void fetch_stream(const std::uint8_t* p) { prefetch<0>(p + kPrefetchBytes); }

// Many rows: tables of several segments pass through L1 before what is far ahead is read, so only the line that comes
// `next` bytes later is fetched that near.
[[gnu::always_inline]] inline void fetch_blocks(const std::uint8_t* p, std::size_t next) {
  prefetch<1>(p + kPrefetchBytes);
  prefetch<0>(p + next);
}

}  // namespace
}  // namespace dualbinary
