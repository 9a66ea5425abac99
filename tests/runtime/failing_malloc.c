/* malloc and its kin for a process in which one call out of one library fails: put before the system's by LD_PRELOAD.
 *
 * fail_nth(begin, end, n): from now on, the n-th call (from 0) from code in [begin, end) gets no memory; n < 0: none.
 * calls(): such calls since then. */

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

extern void* __libc_malloc(size_t);
extern void* __libc_realloc(void*, size_t);
extern void* __libc_memalign(size_t, size_t);

static _Atomic uintptr_t first, last;
static atomic_long count, failing = -1;

void fail_nth(uintptr_t begin, uintptr_t end, long n) {
  first = begin, last = end;
  count = 0;
  failing = n;
}

long calls(void) { return count; }

static int fails(void* caller) {
  const uintptr_t place = (uintptr_t)caller;
  if (place < first || place >= last) return 0;
  return atomic_fetch_add(&count, 1) == failing;
}

void* malloc(size_t size) { return fails(__builtin_return_address(0)) ? NULL : __libc_malloc(size); }

void* realloc(void* old, size_t size) { return fails(__builtin_return_address(0)) ? NULL : __libc_realloc(old, size); }

void* aligned_alloc(size_t alignment, size_t size) {
  return fails(__builtin_return_address(0)) ? NULL : __libc_memalign(alignment, size);
}
