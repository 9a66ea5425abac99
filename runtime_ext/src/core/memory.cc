#include "core/memory.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <mutex>
#include <new>
#include <vector>

#if defined(__linux__)
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace dualbinary {
namespace {

constexpr std::size_t kCacheLine = 64;
constexpr std::size_t kHugePage = std::size_t{2} << 20;  // of x86-64, and of AArch64 with 4 KiB pages

std::size_t round_up(std::size_t value, std::size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

#if defined(__linux__)
// A huge-page aligned mapping, or null. The spare part before and after is given back at once.
std::uint8_t* map_huge(std::size_t bytes) {
  const std::size_t reserved = bytes + kHugePage;
  void* base = mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return nullptr;
  auto* begin = static_cast<std::uint8_t*>(base);
  const std::size_t before =
      round_up(reinterpret_cast<std::uintptr_t>(base), kHugePage) - reinterpret_cast<std::uintptr_t>(base);
  const std::size_t used = round_up(bytes, static_cast<std::size_t>(sysconf(_SC_PAGESIZE)));
  if (before > 0) munmap(begin, before);
  if (reserved - before > used) munmap(begin + before + used, reserved - before - used);
  madvise(begin + before, used, MADV_HUGEPAGE);  // advice: without huge pages the memory is as good as any
  return begin + before;
}
#endif

std::size_t capacity(const Buffer& buffer) { return buffer.get_deleter().bytes; }
bool is_smaller(const Buffer& buffer, std::size_t bytes) { return capacity(buffer) < bytes; }

// What to allocate for `bytes`: up to a quarter more where memory is mapped, so that needs that grow from call to call,
// as those of attention over a growing context, do not map it anew each time. Pages that no call reaches cost nothing.
std::size_t with_room(std::size_t bytes) {
  if (bytes < kHugePage || bytes > std::numeric_limits<std::size_t>::max() / 4) return bytes;
  return round_up(bytes, std::bit_floor(bytes) / 4);
}

// Buffers that wait for the next call. Concurrent calls are few, and each needs two or three.
constexpr std::size_t kPooledBuffers = 16;

// A call takes the smallest buffer that is large enough. Where there is none, the largest is freed and a larger one
// takes its place: so as many wait as calls have needed at once, of about the sizes that they needed.
struct Pool {
  // Room for all of them at once: the end of a call, which gives a buffer back, must not fail.
  Pool() { free.reserve(kPooledBuffers); }

  std::mutex mutex;
  std::vector<Buffer> free;  // by capacity, the smallest first
};

Pool& pool() {
  static auto* const instance = new Pool;  // never destroyed: a call may still run while statics are torn down
  return *instance;
}

}  // namespace

void AlignedFree::operator()(std::uint8_t* memory) const {
#if defined(__linux__)
  if (mapped) {
    munmap(memory, round_up(bytes, static_cast<std::size_t>(sysconf(_SC_PAGESIZE))));
    return;
  }
#endif
  ::operator delete(memory, std::align_val_t{kCacheLine});
}

Buffer allocate(std::size_t bytes) {
  if (bytes > std::numeric_limits<std::size_t>::max() / 2) throw std::bad_alloc();  // no sum below may overflow
#if defined(__linux__)
  if (bytes >= kHugePage) {
    std::uint8_t* memory = map_huge(bytes);
    if (memory == nullptr) throw std::bad_alloc();
    return Buffer(memory, {bytes, true});
  }
#endif
  return Buffer(static_cast<std::uint8_t*>(::operator new(bytes, std::align_val_t{kCacheLine})), {bytes, false});
}

Scratch::Scratch(std::size_t bytes) {
  if (bytes == 0) return;
  Buffer outgrown;  // given back once the lock is
  {
    const std::lock_guard lock(pool().mutex);
    auto& free = pool().free;
    auto fit = std::lower_bound(free.begin(), free.end(), bytes, is_smaller);
    if (fit != free.end()) {
      buffer_ = std::move(*fit);
      free.erase(fit);
      return;
    }
    if (!free.empty()) {
      outgrown = std::move(free.back());
      free.pop_back();
    }
  }
  outgrown.reset();
  buffer_ = allocate(with_room(bytes));
}

Scratch::~Scratch() {
  if (buffer_ == nullptr) return;
  Buffer spare;
  const std::lock_guard lock(pool().mutex);
  auto& free = pool().free;
  if (free.size() == kPooledBuffers) {
    spare = std::move(free.front());
    free.erase(free.begin());
  }
  free.insert(std::lower_bound(free.begin(), free.end(), capacity(buffer_), is_smaller), std::move(buffer_));
}

void release_file_pages([[maybe_unused]] const void* memory, [[maybe_unused]] std::size_t bytes) {
#if defined(__linux__)
  // One 64-bit word of /proc/self/pagemap for each page; these bits are readable without privileges.
  constexpr std::uint64_t kPresent = std::uint64_t{1} << 63;
  constexpr std::uint64_t kSwapped = std::uint64_t{1} << 62;
  constexpr std::uint64_t kFileOrShared = std::uint64_t{1} << 61;
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<std::uintptr_t>(memory);
  const std::uintptr_t first = round_up(address, page) / page;
  const std::uintptr_t last = (address + bytes) / page;
  if (last <= first) return;
  std::vector<std::uint64_t> words(last - first);
  const int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (pagemap < 0) return;
  const std::size_t wanted = words.size() * sizeof(words[0]);
  const ssize_t got = pread(pagemap, words.data(), wanted, static_cast<off_t>(first * sizeof(words[0])));
  close(pagemap);
  const bool reloadable = std::all_of(words.begin(), words.end(), [](std::uint64_t word) {
    return (word & kSwapped) == 0 && ((word & kPresent) == 0 || (word & kFileOrShared) != 0);
  });
  if (got != static_cast<ssize_t>(wanted) || !reloadable) return;
  auto* begin = const_cast<std::uint8_t*>(static_cast<const std::uint8_t*>(memory)) + (first * page - address);
  madvise(begin, (last - first) * page, MADV_DONTNEED);
#endif
}

}  // namespace dualbinary
