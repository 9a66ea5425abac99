// Work for several threads while a weight is made: the host's pool cannot be had while kernels are created.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

namespace dualbinary {

// Bytes made by each thread, at least: about a millisecond of packing, where starting a thread takes 50 us.
inline constexpr std::size_t kThreadBytes = std::size_t{4} << 20;

// Threads that pay for making so many bytes: one, up to as many as the machine has.
inline std::size_t threads_for(std::size_t bytes) {
  const std::size_t most = std::max(1U, std::thread::hardware_concurrency());
  return std::clamp<std::size_t>(bytes / kThreadBytes, 1, most);
}

// Calls body(thread, i) for every i in [0, count) from at most `threads` threads, numbered from 0; the caller is one of
// them. Where no more threads can be started, fewer do it all.
template <class Body>
void for_each_index(std::int64_t count, std::size_t threads, const Body& body) {
  std::atomic<std::int64_t> next{0};
  const auto work = [&](std::size_t thread) {
    for (std::int64_t i = next++; i < count; i = next++) body(thread, i);
  };
  std::vector<std::thread> helpers;
  helpers.reserve(threads);
  try {
    for (std::size_t thread = 1; thread < threads; ++thread) helpers.emplace_back(work, thread);
  } catch (const std::exception&) {  // no more threads, or no memory for one: those that are there do it all
  }
  work(0);
  for (std::thread& helper : helpers) helper.join();
}

}  // namespace dualbinary
