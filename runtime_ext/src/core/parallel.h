// Parallel loops of the host.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>

namespace dualbinary {

// A parallel loop of the host: runs task(data, i) for every i in [0, count), in any order, and returns when all are
// done. Without `run` the loop runs on the calling thread.
struct ParallelFor {
  void (*run)(void* pool, void (*task)(void* data, std::size_t index), void* data, std::size_t count) = nullptr;
  void* pool = nullptr;
};

// Tasks of one loop, at most. The host does not say how many threads it has; this balances 16 and costs 4 us at worst.
inline constexpr std::int64_t kMaxTasks = 64;

// Splits [0, items) into runs of equal length, about `tasks` of them, and calls body(begin, end) for each, in parallel
// where there is more than one. An exception in a body reaches the caller after the loop: it must not cross the host's
// frames. Of several it is that of the first run, whatever the order in which they were done.
template <class Body>
void for_runs(std::int64_t items, std::int64_t tasks, const ParallelFor& parallel, const Body& body) {
  // A power of two, so that 2, 4 or 8 threads get equal shares: of 7 tasks one of two threads would wait for the
  // fourth.
  tasks = static_cast<std::int64_t>(
      std::bit_ceil(static_cast<std::uint64_t>(std::clamp<std::int64_t>(tasks, 1, kMaxTasks))));
  tasks = std::min(items, tasks);
  if (tasks <= 1 || parallel.run == nullptr) return body(std::int64_t{0}, items);
  struct Loop {
    const Body& body;
    std::int64_t items;
    std::int64_t tasks;
    std::int64_t failed;
    std::mutex mutex;
    std::exception_ptr failure;
  } loop{body, items, tasks, tasks, {}, {}};
  const auto task = [](void* data, std::size_t index) {
    auto& l = *static_cast<Loop*>(data);
    const auto i = static_cast<std::int64_t>(index);
    try {
      l.body(l.items * i / l.tasks, l.items * (i + 1) / l.tasks);
    } catch (...) {
      const std::lock_guard lock(l.mutex);
      if (i >= l.failed) return;
      l.failed = i;
      l.failure = std::current_exception();
    }
  };
  parallel.run(parallel.pool, task, &loop, static_cast<std::size_t>(tasks));
  if (loop.failure) std::rethrow_exception(loop.failure);
}

}  // namespace dualbinary
