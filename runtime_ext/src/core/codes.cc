#include "core/codes.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "contract.h"
#include "core/spec.h"
#include "core/threads.h"

namespace dualbinary {
namespace {

using Word = std::uint64_t;

constexpr int kIndexBits = 6;  // of a bit in a word
constexpr std::int64_t kWordBytes = sizeof(Word);
constexpr std::int64_t kOutputsAtOnce = 16;  // of a thread

// The bits of a word whose index has bit `high` clear and bit `low` set.
constexpr Word mask_of(int low, int high) {
  Word mask = 0;
  for (int i = 0; i < 1 << kIndexBits; ++i) {
    if ((i >> low & 1) == 1 && (i >> high & 1) == 0) mask |= Word{1} << i;
  }
  return mask;
}

// Moves the bit of each index to the index with bits kLow < kHigh exchanged.
template <int kLow, int kHigh>
Word exchange(Word word) {
  constexpr int kShift = (1 << kHigh) - (1 << kLow);
  const Word differing = (word >> kShift ^ word) & mask_of(kLow, kHigh);
  return word ^ differing ^ differing << kShift;
}

// A word of 64 / P codes of P = 2^kLog bits becomes P fields of as many bits, one for each plane: the low kLog bits of
// an index, which say the plane, become its high ones, and the rest, which says the code, moves down.
template <int kLog, int kBit = 0>
Word to_fields(Word codes) {
  if constexpr (kBit + kLog < kIndexBits) {
    return to_fields<kLog, kBit + 1>(exchange<kBit, kBit + kLog>(codes));
  } else {
    return codes;
  }
}

// The planes of output n. Zero points follow the codes of a row as bits of theirs follow those of a plane, so a row is
// one run of codes.
template <int kLog>
void convert_row(const Shape& shape, const std::uint8_t* codes, std::int64_t n, std::uint8_t* planes) {
  constexpr std::int64_t kPlanes = 1 << kLog;
  constexpr std::int64_t kFieldBytes = kWordBytes / kPlanes;
  const auto write = [&](std::int64_t at, std::int64_t count) {
    Word word = 0;
    std::memcpy(&word, codes + at * kPlanes, static_cast<std::size_t>(count * kPlanes));
    word = to_fields<kLog>(word);
    for (std::int64_t p = 0; p < kPlanes; ++p) {
      const Word field = word >> (8 * kFieldBytes * p);
      std::memcpy(planes + (p * shape.N + n) * shape.row_bytes + at, &field, static_cast<std::size_t>(count));
    }
  };
  const std::int64_t whole = shape.row_bytes / kFieldBytes * kFieldBytes;
  for (std::int64_t at = 0; at < whole; at += kFieldBytes) write(at, kFieldBytes);
  if (whole < shape.row_bytes) write(whole, shape.row_bytes - whole);
}

auto row_converter(std::int64_t planes) {
  if (planes == 2) return &convert_row<1>;
  return planes == 4 ? &convert_row<2> : &convert_row<3>;
}

}  // namespace

Shape plain_shape(Shape codes) {
  codes.layout = contract::kLayoutPlain;
  return codes;
}

Buffer plain_planes(const Shape& shape, const std::uint8_t* codes) {
  const auto bytes = static_cast<std::size_t>(planes_bytes(plain_shape(shape)));
  const std::int64_t row_codes_bytes = static_cast<std::int64_t>(planes_bytes(shape)) / shape.N;
  Buffer planes = allocate(bytes);
  const auto convert = row_converter(shape.planes);
  const std::int64_t runs = (shape.N + kOutputsAtOnce - 1) / kOutputsAtOnce;
  for_each_index(runs, threads_for(bytes), [&](std::size_t, std::int64_t run) {
    const std::int64_t end = std::min(shape.N, (run + 1) * kOutputsAtOnce);
    for (std::int64_t n = run * kOutputsAtOnce; n < end; ++n) {
      convert(shape, codes + n * row_codes_bytes, n, planes.get());
    }
  });
  return planes;
}

}  // namespace dualbinary
