#include "core/packed.h"

#include <atomic>
#include <cstring>
#include <mutex>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "core/threads.h"

namespace dualbinary {
namespace {

// Everything else of a shape follows from these.
auto identity(const Shape& s) {
  return std::make_tuple(s.K, s.N, s.group_size, s.planes, s.scale_rows, s.scale_type, s.twice_zero == kGroupZeros);
}

// The copies in use, by a hash of their first output block, which only narrows the search.
struct Registry {
  std::mutex mutex;
  std::unordered_multimap<std::size_t, std::weak_ptr<const Packed>> copies;
};

Registry& registry() {
  static auto* const instance = new Registry;  // never destroyed: sessions may outlive this library's statics
  return *instance;
}

std::vector<std::shared_ptr<const Packed>> copies_with(std::size_t key) {
  std::vector<std::shared_ptr<const Packed>> found;
  const std::lock_guard lock(registry().mutex);
  found.reserve(registry().copies.count(key));
  const auto [begin, end] = registry().copies.equal_range(key);
  for (auto it = begin; it != end; ++it) {
    if (auto copy = it->second.lock()) found.push_back(std::move(copy));
  }
  return found;
}

}  // namespace

Packed::Packed(const Shape& shape, const MatMulKernel& kernel, std::size_t key)
    : shape_(shape),
      pack_block_(kernel.pack_block),
      blocks_((shape.N + kernel.block_outputs - 1) / kernel.block_outputs),
      block_bytes_(kernel.block_bytes(shape)),
      key_(key),
      memory_(allocate(static_cast<std::size_t>(blocks_) * block_bytes_)) {}

Packed::~Packed() {
  const std::lock_guard lock(registry().mutex);
  const auto [begin, end] = registry().copies.equal_range(key_);
  for (auto it = begin; it != end;) it = it->second.expired() ? registry().copies.erase(it) : std::next(it);
}

void Packed::pack(const Stored& stored) {
  const std::size_t bytes = static_cast<std::size_t>(blocks_) * block_bytes_;
  for_each_index(blocks_, threads_for(bytes), [&](std::size_t, std::int64_t block) {
    pack_block_(shape_, stored, block, memory_.get() + static_cast<std::size_t>(block) * block_bytes_);
  });
}

bool Packed::holds(const Shape& shape, const Stored& stored, const MatMulKernel& kernel) const {
  if (kernel.pack_block != pack_block_ || identity(shape) != identity(shape_)) return false;
  const std::size_t threads = threads_for(static_cast<std::size_t>(blocks_) * block_bytes_);
  const Buffer scratch = allocate(threads * block_bytes_);
  std::atomic<bool> equal{true};
  for_each_index(blocks_, threads, [&](std::size_t thread, std::int64_t block) {
    if (!equal) return;
    std::uint8_t* const own = scratch.get() + thread * block_bytes_;
    pack_block_(shape, stored, block, own);
    if (std::memcmp(own, data() + static_cast<std::size_t>(block) * block_bytes_, block_bytes_) != 0) equal = false;
  });
  return equal;
}

std::shared_ptr<const Packed> Packed::get(const Shape& shape, const Stored& stored, const MatMulKernel& kernel) {
  const std::size_t block_bytes = kernel.block_bytes(shape);
  const Buffer first = allocate(block_bytes);
  kernel.pack_block(shape, stored, 0, first.get());
  const std::size_t key = std::hash<std::string_view>{}({reinterpret_cast<const char*>(first.get()), block_bytes});
  for (auto& copy : copies_with(key)) {
    if (copy->holds(shape, stored, kernel)) return std::move(copy);
  }
  const std::shared_ptr<Packed> made(new Packed(shape, kernel, key));
  made->pack(stored);
  const std::lock_guard lock(registry().mutex);
  registry().copies.emplace(key, made);
  return made;
}

Packed::Usage Packed::usage() {
  std::vector<std::shared_ptr<const Packed>> live;  // released after the lock: a destructor takes it too
  const std::lock_guard lock(registry().mutex);
  Usage usage{0, 0};
  for (const auto& [key, weak] : registry().copies) {
    auto copy = weak.lock();
    if (copy == nullptr) continue;
    ++usage.copies;
    usage.bytes += static_cast<std::size_t>(copy->blocks_) * copy->block_bytes_;
    live.push_back(std::move(copy));
  }
  return usage;
}

}  // namespace dualbinary
