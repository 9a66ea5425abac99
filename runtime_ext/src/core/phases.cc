#include "core/phases.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <limits>
#include <mutex>
#include <thread>
#include <vector>

namespace dualbinary {
namespace {

// Looks at the counter before a waiting thread gives its core away: about 20 us. A core that another process took shall
// not be waited for by keeping the others.
constexpr int kSpins = 4000;

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

constexpr std::int64_t kNone = std::numeric_limits<std::int64_t>::max();

// Of one phase, on a cache line of its own. `failed` is the first task that failed: later ones are left out, earlier
// ones are done, so that the failure is the same in every order.
struct alignas(64) Progress {
  std::atomic<std::int64_t> claimed{0};
  std::atomic<std::int64_t> done{0};
  std::atomic<std::int64_t> failed{kNone};
};

struct Run {
  std::span<const Phase> phases;
  std::vector<Progress> progress;
  std::mutex mutex;
  std::exception_ptr failure;

  void fail(Progress& at, std::int64_t i) {
    const std::lock_guard lock(mutex);
    if (i >= at.failed) return;
    at.failed = i;
    failure = std::current_exception();
  }

  // What one thread does of all phases.
  void work() {
    bool failed = false;  // an earlier phase, all of whose tasks are done
    for (std::size_t p = 0; p < phases.size(); ++p) {
      const Phase& phase = phases[p];
      Progress& at = progress[p];
      for (std::int64_t i = at.claimed++; i < phase.count; i = at.claimed++) {
        try {
          if (!failed && i < at.failed) phase.body(i);
        } catch (...) {
          fail(at, i);
        }
        at.done.fetch_add(1, std::memory_order_release);
      }
      for (int spins = 0; at.done.load(std::memory_order_acquire) < phase.count; ++spins) {
        spins < kSpins ? pause() : std::this_thread::yield();
      }
      failed = failed || at.failed != kNone;
    }
  }
};

}  // namespace

void run_phases(std::span<const Phase> phases, std::int64_t threads, const ParallelFor& parallel) {
  std::int64_t most = 0;
  for (const Phase& phase : phases) most = std::max(most, phase.count);
  threads = std::min(threads, most);
  if (threads <= 1 || parallel.run == nullptr) {
    for (const Phase& phase : phases) {
      for (std::int64_t i = 0; i < phase.count; ++i) phase.body(i);
    }
    return;
  }
  Run run{phases, std::vector<Progress>(phases.size()), {}, {}};
  parallel.run(
      parallel.pool, [](void* data, std::size_t) { static_cast<Run*>(data)->work(); }, &run,
      static_cast<std::size_t>(threads));
  if (run.failure) std::rethrow_exception(run.failure);
}

}  // namespace dualbinary
