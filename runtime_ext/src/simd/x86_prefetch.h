// Software prefetch of a forward stream, for x86.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace dualbinary {
namespace {

// Distance from the kernel at which the packed stream is fetched. One core's out-of-order window covers about 20 cache
// lines of this code, DRAM latency times bandwidth is about 50 and more; without it time is compute plus memory. At M=1
// on Zen 5, 2 KiB were 7 to 28 % slower than 6 and 8 KiB; fetching into L2 only was 12 to 20 % slower than into L1
// (docs/log/kernels.md, 2026-11-25).
constexpr std::size_t kPrefetchBytes = 8192;

// Both are to be called for every cache line of the stream when it is read, in order, and not for many at once: a burst
// of requests takes up the buffers that other loads need, which cost 13 to 29 % of the time at M=1.

// One row of tables: the stream passes within a microsecond, and L1 holds what is ahead.
inline void fetch_stream(const std::uint8_t* p) {
  _mm_prefetch(reinterpret_cast<const char*>(p + kPrefetchBytes), _MM_HINT_T0);
}

// Many rows: tables of several segments pass through L1 before what is far ahead is read, so only the line that comes
// `next` bytes later is fetched that near.
inline void fetch_blocks(const std::uint8_t* p, std::size_t next) {
  _mm_prefetch(reinterpret_cast<const char*>(p + kPrefetchBytes), _MM_HINT_T1);
  _mm_prefetch(reinterpret_cast<const char*>(p + next), _MM_HINT_T0);
}

}  // namespace
}  // namespace dualbinary
