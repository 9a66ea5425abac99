// The bytes of a fuzzer as decisions. Zeros, and all that comes after the last byte, decide for what is well formed and
// small, so that a short input is a good call and each further byte may spoil it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>

namespace dualbinary::fuzz {

class Bytes {
 public:
  Bytes(const std::uint8_t* data, std::size_t size) : at_(data), end_(data + size) {}

  std::uint8_t byte() { return at_ == end_ ? std::uint8_t{0} : *at_++; }

  std::uint32_t word() {
    std::uint32_t value = 0;
    for (int i = 0; i < 4; ++i) value = value << 8 | byte();
    return value;
  }

  // 0 to count - 1.
  std::int64_t below(std::int64_t count) {
    const std::int64_t value = count <= 256 ? byte() : byte() << 8 | byte();
    return value % count;
  }

  // 1 to `most`, mostly few: what is beyond a block, a group and a vector of them is met, and calls stay fast.
  std::int64_t size(std::int64_t most) {
    constexpr std::int64_t kFew = 40;
    return 1 + below(byte() < 192 && most > kFew ? kFew : most);
  }

  // A power of two from 2 on: mostly up to 128, rarely beyond the largest block of a transform.
  std::int64_t power() { return std::int64_t{2} << below(!rarely() ? 7 : rarely() ? 17 : 12); }

  bool flag() { return (byte() & 1) != 0; }

  // What an attacker would write, one time in sixteen: often enough to be met, rare enough that most calls get through.
  bool rarely() { return byte() >= 240; }

  template <class T>
  T pick(std::initializer_list<T> values) {
    return values.begin()[below(static_cast<std::int64_t>(values.size()))];
  }

  // A number at the edge of something.
  std::int64_t edge() {
    constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
    constexpr std::int64_t k31 = std::int64_t{1} << 31;
    return pick<std::int64_t>({0,    -1,  1,  k31 - 1, k31, 2 * k31, kMost,   -kMost - 1, kMost - 31, k31 * k31,
                               -k31, 255, 15, 16,      31,  33,      1 << 16, kMost / 2,  kMost / 8,  kMost / 32 * 32});
  }

  // `value`, or rarely something else.
  std::int64_t or_edge(std::int64_t value) {
    if (!rarely()) return value;
    return flag() ? edge() : value + below(5) - 2;
  }

 private:
  const std::uint8_t* at_;
  const std::uint8_t* end_;
};

// Numbers without end from one seed (xorshift64*), for the contents of tensors.
class Noise {
 public:
  explicit Noise(std::uint32_t seed) : state_(seed * 2654435761ULL + 1) {}

  std::uint64_t next() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 2685821657736338717ULL;
  }

 private:
  std::uint64_t state_;
};

}  // namespace dualbinary::fuzz
