// Reads memory as fast as it comes: what a product with M = 1 can be held against. Built for this machine by
// memory_read.py.
#include <stddef.h>
#include <stdint.h>

typedef uint64_t Line __attribute__((vector_size(64)));

enum { kLines = 4 };  // independent sums, so that their latency does not count

// The OR of `bytes` at `base`, shared between all callers with the same `next`: each takes chunks until none are left,
// so a thread that the system held up keeps nobody waiting for long. `chunk` and `bytes` are multiples of 256. Lines
// `ahead` bytes away are fetched early; prefetching past the end is harmless.
uint64_t dualbinary_read(const char* base, size_t bytes, size_t chunk, size_t ahead, size_t* next) {
  Line sums[kLines] = {{0}, {0}, {0}, {0}};
  for (;;) {
    const size_t begin = __atomic_fetch_add(next, chunk, __ATOMIC_RELAXED);
    if (begin >= bytes) break;
    const size_t end = bytes - begin < chunk ? bytes : begin + chunk;
    for (size_t at = begin; at < end; at += sizeof(sums)) {
      const Line* lines = (const Line*)(base + at);
      for (int i = 0; i < kLines; ++i) {
        if (ahead != 0) __builtin_prefetch(base + at + ahead + i * sizeof(Line), 0, 0);
        sums[i] |= lines[i];
      }
    }
  }
  const Line sum = sums[0] | sums[1] | sums[2] | sums[3];
  return sum[0] | sum[1] | sum[2] | sum[3] | sum[4] | sum[5] | sum[6] | sum[7];
}
