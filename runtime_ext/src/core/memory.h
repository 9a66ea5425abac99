// Memory for packed weights and for the prepared rows of one call, and release of pages that are not needed any more.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace dualbinary {

struct AlignedFree {
  std::size_t bytes = 0;
  bool mapped = false;
  void operator()(std::uint8_t* memory) const;
};
using Buffer = std::unique_ptr<std::uint8_t, AlignedFree>;

// Memory that starts on a cache line. Where the system has huge pages and the buffer is large enough for one, it starts
// on a huge page and asks for them: a stream through 4 KiB pages loses 10 to 15 % of the DRAM bandwidth. Throws
// std::bad_alloc.
Buffer allocate(std::size_t bytes);

// Scratch memory for one call, taken from a pool and returned to it; none, and a null pointer, for 0 bytes. A pool
// rather than thread_local: a thread that waits in a parallel loop may be given another call's work, which must not
// find the first one's memory.
class Scratch {
 public:
  explicit Scratch(std::size_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  std::uint8_t* data() const { return buffer_.get(); }

 private:
  Buffer buffer_;
};

// Drops the resident pages that lie wholly inside [memory, memory + bytes), if that loses nothing: every one of them
// must belong to a file (or another shared object), so that a later access reads it again. ONNX Runtime maps external
// weights this way, and after packing they are hardly ever read. Anonymous memory, or a page that was written to, would
// come back as zeros, so then nothing is dropped. Linux only; elsewhere it does nothing.
void release_file_pages(const void* memory, std::size_t bytes);

}  // namespace dualbinary
