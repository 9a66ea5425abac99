// Software prefetch of a forward stream, for x86.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace dualbinary {
namespace {

// How far ahead of the kernel the packed stream is fetched into L2. One core's out-of-order window covers about 20
// cache lines of this code, DRAM latency times bandwidth is about 50 and more; without it time is compute plus memory.
// On Zen 4 distances from 6 to 16 KiB were alike and 2 KiB lost 20 %; on a 2-core Xeon with AVX-512 4 to 16 KiB were
// alike (benchmarks/kernel_bench.py --rows 1, 2026-11-23).
constexpr std::size_t kPrefetchBytes = 8192;

// To be called for every cache line of the stream when it is read, and not for many at once: a burst of requests takes
// up the buffers that other loads need, which cost 13 to 29 % of the time at M=1.
inline void fetch_ahead(const std::uint8_t* p) {
  _mm_prefetch(reinterpret_cast<const char*>(p + kPrefetchBytes), _MM_HINT_T1);
}

}  // namespace
}  // namespace dualbinary
