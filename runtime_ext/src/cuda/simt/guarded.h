// Memory of the emulation: it ends where a page begins that cannot be accessed.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

namespace dualbinary::simt::emulated {

// Before the data there is a page with the length of the mapping; after them one without access.
struct ReleaseGuarded {
  void operator()(void* data) const {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    auto* begin = static_cast<std::uint8_t*>(data) - reinterpret_cast<std::uintptr_t>(data) % page - page;
    std::size_t mapped = 0;
    std::memcpy(&mapped, begin, sizeof(mapped));
    munmap(begin, mapped);
  }
};

// Zeros that start at a multiple of 16 bytes, so that up to 15 bytes past the end are not noticed. Throws
// std::bad_alloc.
inline std::unique_ptr<void, ReleaseGuarded> allocate_guarded(std::size_t bytes) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const std::size_t used = (bytes + 15) / 16 * 16;
  const std::size_t mapped = page + (used + page - 1) / page * page + page;
  void* memory = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  auto* begin = static_cast<std::uint8_t*>(memory);
  std::memcpy(begin, &mapped, sizeof(mapped));
  mprotect(begin + mapped - page, page, PROT_NONE);
  return std::unique_ptr<void, ReleaseGuarded>(begin + mapped - page - used);
}

}  // namespace dualbinary::simt::emulated
