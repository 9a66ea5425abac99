// The table method (its maths: kernel.h), generic over the ISA. Everything is in an unnamed namespace and nothing of
// the standard library is instantiated: each ISA file gets a private copy, compiled with its own flags.
//
// A `Policy` says how outputs are grouped and provides the two inner pieces:
//
//   kBlockRows        outputs in a packed block
//   kPlanesPerPass<Lines>  planes that one pass over the tables of a segment can accumulate
//   pack_line, unpack_line   see pack-inl.h
//   accumulate<Digits, Lines, Planes, Offset>
//                     adds one segment of `Planes` planes (and the offset) to the results of all rows of the tile,
//                     and prefetches the packed stream ahead of what it reads
//   fetch             prefetches the packed stream ahead of a cache line that is read here
//   F32x16            sixteen floats with the few operations that building a table takes, see simd/
#pragma once

#include <cfloat>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/kernel.h"
#include "kernels/pack-inl.h"

namespace dualbinary {
namespace {

constexpr int kNibble = 4;
constexpr int kTableEntries = 16;
constexpr int kFourNibbles = 4 * kNibble;
constexpr int kMaxLines = static_cast<int>(kMaxSegment) / kLineInputs;

constexpr int kDigitBits = 8;

// Largest |entry - bias|: an entry spans [0, 2 * bias].
template <int kDigits>
constexpr int kBias = (1 << (kDigits * kDigitBits - 1)) - 1;

// +-1/2 for input i of a nibble and subset s: plus where s selects i. The sum over i of sign * x is the centred entry.
alignas(64) constexpr float kHalfSign[kNibble][kTableEntries] = {
    {-.5F, .5F, -.5F, .5F, -.5F, .5F, -.5F, .5F, -.5F, .5F, -.5F, .5F, -.5F, .5F, -.5F, .5F},
    {-.5F, -.5F, .5F, .5F, -.5F, -.5F, .5F, .5F, -.5F, -.5F, .5F, .5F, -.5F, -.5F, .5F, .5F},
    {-.5F, -.5F, -.5F, -.5F, .5F, .5F, .5F, .5F, -.5F, -.5F, -.5F, -.5F, .5F, .5F, .5F, .5F},
    {-.5F, -.5F, -.5F, -.5F, -.5F, -.5F, -.5F, -.5F, .5F, .5F, .5F, .5F, .5F, .5F, .5F, .5F},
};

// Scales of a block as float32, from factors and codes. Both products are exact: 11 bits times 8, and a power of two.
template <class Policy>
struct CodedScales {
  using F32x16 = typename Policy::F32x16;
  alignas(kAlignment) float factors[kMaxScaleRows * Policy::kBlockRows];  // of the block, divided by kCodeUnit
  alignas(kAlignment) float values[kMaxScaleRows * Policy::kBlockRows];   // of the group

  void load_factors(const Shape& shape, const std::uint8_t* packed) {
    const F32x16 unit = F32x16::set(1.0F / kCodeUnit);
    for (std::int64_t i = 0; i < shape.scale_rows * Policy::kBlockRows; i += kTableEntries) {
      const std::uint8_t* at = packed + i * kFactorBytes;
      Policy::fetch(at);
      F32x16::multiply(F32x16::load(reinterpret_cast<const std::uint16_t*>(at)), unit).store(factors + i);
    }
  }
  void load_group(const Shape& shape, const std::uint8_t* packed) {
    for (std::int64_t i = 0; i < shape.scale_rows * Policy::kBlockRows; i += kTableEntries) {
      if (i % static_cast<std::int64_t>(kAlignment) == 0) Policy::fetch(packed + i);
      const F32x16 codes = F32x16::load(reinterpret_cast<const std::int8_t*>(packed) + i);
      F32x16::multiply(codes, F32x16::load(factors + i)).store(values + i);
    }
  }
};

// Sixteen activations from `x`, of which `count` exist; the rest is zero.
template <class F32x16, class T>
F32x16 load_activations(const T* x, std::int64_t count) {
  if (count >= kTableEntries) return F32x16::load(x);
  T padded[kTableEntries] = {};
  if (count > 0) std::memcpy(padded, x, static_cast<std::size_t>(count) * sizeof(T));
  return F32x16::load(padded);
}

// Entries of all nibbles of x [size], in units of the step: bias + round(sum over i of (+-1/2) * x[i]); digit d of all
// at out + d * stride.
template <class F32x16, int kDigits>
void build_entries(const float* x, std::int64_t size, float inverse_step, std::uint8_t* out, std::size_t stride) {
  const F32x16 inverse = F32x16::set(inverse_step);
  const F32x16 half0 = F32x16::multiply(F32x16::load(kHalfSign[0]), inverse);
  const F32x16 half1 = F32x16::multiply(F32x16::load(kHalfSign[1]), inverse);
  const F32x16 half2 = F32x16::multiply(F32x16::load(kHalfSign[2]), inverse);
  const F32x16 half3 = F32x16::multiply(F32x16::load(kHalfSign[3]), inverse);
  for (std::int64_t k = 0; k < size; k += kFourNibbles) {
    F32x16 entries[4];
#pragma GCC unroll 4
    for (F32x16& entry : entries) {
      const F32x16 two = F32x16::multiply_add(half1, F32x16::set(x[1]), F32x16::multiply(half0, F32x16::set(x[0])));
      entry = F32x16::multiply_add(half3, F32x16::set(x[3]), F32x16::multiply_add(half2, F32x16::set(x[2]), two));
      x += kNibble;
    }
    F32x16::template store_digits<kDigits>(entries, kBias<kDigits>, out, stride);
    out += 4 * kTableEntries;
  }
}

// Tables of one segment. `count` of its inputs exist. Returns false where they cannot represent x.
template <class F32x16, int kDigits, class T>
bool build_segment(const T* x, std::int64_t count, std::int64_t size, std::uint8_t* entries, Segment& segment) {
  alignas(64) float values[kMaxSegment];
  F32x16 sum = F32x16::set(0);
  F32x16 magnitude = F32x16::set(0);  // four times the sum of |x|: each nibble's sum stands in its four lanes
  F32x16 largest = F32x16::set(0);
  for (std::int64_t k = 0; k < size; k += kTableEntries) {
    const F32x16 v = load_activations<F32x16>(x + k, count - k);
    v.store(values + k);
    const F32x16 nibbles = v.absolute().sum_quads();
    sum = F32x16::add(sum, v);
    magnitude = F32x16::add(magnitude, nibbles);
    largest = F32x16::max(largest, nibbles);
  }
  const float half_range = 0.5F * largest.reduce_max();
  const float step = half_range / static_cast<float>(kBias<kDigits>);
  // The first comparison is false for NaN and infinity. A denormal step has too few bits, and its inverse overflows.
  if (!(magnitude.reduce_add() <= FLT_MAX) || (half_range > 0 && step < FLT_MIN)) {
    segment = {0, 0, 0};
    return false;
  }
  const float inverse = half_range > 0 ? 1 / step : 0;
  const auto nibbles = static_cast<std::int32_t>(size / kNibble);
  const auto digit_bytes = static_cast<std::size_t>(nibbles) * kTableEntries;
  build_entries<F32x16, kDigits>(values, size, inverse, entries, digit_bytes);
  segment.step = step;
  segment.sum = sum.reduce_add();
  segment.start = F32x16::round_scalar(0.5F * segment.sum * inverse) - kBias<kDigits> * nibbles;
  return true;
}

template <class Policy, int kDigits, class T>
bool build_row(const Shape& shape, const T* x, std::int64_t row, const Tables& tables) {
  const std::int64_t bytes = shape.segment_size * kDigits * kTableEntries / kNibble;
  bool regular = true;
  for (std::int64_t s = 0; s < shape.segments; ++s) {
    const std::int64_t k = s * shape.segment_size;
    const std::int64_t at = s * tables.rows + row;
    regular &= build_segment<typename Policy::F32x16, kDigits>(x + k, shape.K - k, shape.segment_size,
                                                               tables.entries + at * bytes, tables.segments[at]);
  }
  return regular;
}

template <class Policy, int kDigits>
bool build_tables(const Shape& shape, const Activations& x, std::int64_t row, const Tables& tables) {
  if (x.type == Element::kFloat16) {
    const auto* data = static_cast<const std::uint16_t*>(x.data) + row * shape.K;
    return build_row<Policy, kDigits>(shape, data, row, tables);
  }
  return build_row<Policy, kDigits>(shape, static_cast<const float*>(x.data) + row * shape.K, row, tables);
}

// What accumulate() needs of one segment. Strides are in bytes.
struct SegmentView {
  const std::uint8_t* lines;    // of the pass's first plane; the next plane follows at once
  const std::uint8_t* scales;   // of the pass's first plane, then of the next, then of the offset
  Element scale_type;           // float32 or float16
  const std::uint8_t* entries;  // of row 0
  const Segment* segments;      // of row 0
  std::int64_t rows;
  float* y;  // [rows][kBlockRows]
};

// The last pass of a segment, of at most kPlanes planes, takes the offset along.
template <class Policy, int kDigits, int kLines, int kPlanes>
void accumulate_last(std::int64_t planes, bool offset, const SegmentView& view) {
  if constexpr (kPlanes > 1) {
    if (planes < kPlanes) return accumulate_last<Policy, kDigits, kLines, kPlanes - 1>(planes, offset, view);
  }
  if (offset) {
    Policy::template accumulate<kDigits, kLines, kPlanes, true>(view);
  } else {
    Policy::template accumulate<kDigits, kLines, kPlanes, false>(view);
  }
}

// All planes of one segment, kPlanesPerPass at a time.
template <class Policy, int kDigits, int kLines>
void accumulate_segment(const Shape& shape, SegmentView view) {
  constexpr int kPass = Policy::template kPlanesPerPass<kLines>;
  std::int64_t left = shape.planes;
  for (; left > kPass; left -= kPass) {
    Policy::template accumulate<kDigits, kLines, kPass, false>(view);
    view.lines += kPass * kLines * PackedLayout<Policy>::kLineBytes;
    view.scales += kPass * PackedLayout<Policy>::scale_row_bytes(view.scale_type);
  }
  accumulate_last<Policy, kDigits, kLines, kPass>(left, shape.scale_rows > shape.planes, view);
}

// What turns a float that T cannot hold into infinity.
template <class T>
constexpr float kOverflow = sizeof(T) == sizeof(std::uint16_t) ? FLT_MAX / 65504.F : 1.F;

// Results of a block, of which `count` outputs exist, to sixteen-wide pieces of Y. `special` becomes NaN where one of
// them is infinite or NaN as T, for 0 * infinity is NaN, and else stays zero.
template <class F32x16, class T>
void store_row(const float* y, std::int64_t count, T* out, F32x16& special) {
  for (std::int64_t n = 0; n < count; n += kTableEntries) {
    const F32x16 v = F32x16::load(y + n);
    special = F32x16::multiply_add(F32x16::multiply(v, F32x16::set(kOverflow<T>)), F32x16::set(0), special);
    if (n + kTableEntries <= count) {
      v.store(out + n);
    } else {
      T padded[kTableEntries];
      v.store(padded);
      std::memcpy(out + n, padded, static_cast<std::size_t>(count - n) * sizeof(T));
    }
  }
}

// Returns whether all results are finite.
template <class Policy, class T>
bool store_block(const Product& a, std::int64_t block, const float* y) {
  using F32x16 = typename Policy::F32x16;
  const std::int64_t n0 = block * Policy::kBlockRows;
  const std::int64_t count = a.shape->N - n0 < Policy::kBlockRows ? a.shape->N - n0 : Policy::kBlockRows;
  F32x16 special = F32x16::set(0);
  for (std::int64_t m = 0; m < a.tables.rows; ++m) {
    store_row<F32x16>(y + m * Policy::kBlockRows, count, static_cast<T*>(a.y) + m * a.shape->N + n0, special);
  }
  return special.reduce_add() == 0;
}

// Calls add(SegmentView) for all segments of each block in turn and stores the block's results; returns whether all are
// finite. `entry_bytes` is what a segment takes of the tables, all rows.
template <class Policy, class AddSegment>
bool for_blocks(const Product& a, std::int64_t entry_bytes, const AddSegment& add) {
  const Shape& shape = *a.shape;
  const std::int64_t rows = a.tables.rows;
  const std::int64_t group_segments = shape.group_size / shape.segment_size;
  const std::size_t scale_bytes = PackedLayout<Policy>::scale_bytes(shape);
  const std::size_t segment_bytes = PackedLayout<Policy>::segment_bytes(shape);
  const bool coded = shape.scale_type == Element::kCode8;
  const Element scale_type = coded ? Element::kFloat32 : shape.scale_type;
  CodedScales<Policy> decoded;
  alignas(64) float y[kMaxTileRows * Policy::kBlockRows];
  const std::uint8_t* at =
      a.packed + static_cast<std::size_t>(a.block_begin) * PackedLayout<Policy>::block_bytes(shape);
  bool finite = true;
  for (std::int64_t block = a.block_begin; block < a.block_end; ++block) {
    std::memset(y, 0, static_cast<std::size_t>(rows) * Policy::kBlockRows * sizeof(float));
    if (coded) decoded.load_factors(shape, at);
    at += PackedLayout<Policy>::factor_bytes(shape);
    const std::uint8_t* scales = at;
    for (std::int64_t s = 0; s < shape.segments; ++s) {
      if (s % group_segments == 0) {
        if (coded) decoded.load_group(shape, at);
        scales = coded ? reinterpret_cast<const std::uint8_t*>(decoded.values) : at;
        at += scale_bytes;
      }
      add(SegmentView{at, scales, scale_type, a.tables.entries + s * entry_bytes, a.tables.segments + s * rows, rows,
                      y});
      at += segment_bytes;
    }
    finite &= a.y_type == Element::kFloat16 ? store_block<Policy, std::uint16_t>(a, block, y)
                                            : store_block<Policy, float>(a, block, y);
  }
  return finite;
}

template <class Policy, int kDigits, int kLines>
bool multiply_blocks(const Product& a) {
  return for_blocks<Policy>(
      a, kLines * kLineInputs * kDigits * kTableEntries / kNibble * a.tables.rows,
      [&](const SegmentView& view) { accumulate_segment<Policy, kDigits, kLines>(*a.shape, view); });
}

template <class Policy, int kDigits>
bool multiply(const Product& a) {
  static_assert(kMaxLines == 4, "one case for each number of lines in a segment");
  switch (a.shape->segment_size / kLineInputs) {
    case 1:
      return multiply_blocks<Policy, kDigits, 1>(a);
    case 2:
      return multiply_blocks<Policy, kDigits, 2>(a);
    case 3:
      return multiply_blocks<Policy, kDigits, 3>(a);
    default:
      return multiply_blocks<Policy, kDigits, 4>(a);
  }
}

template <class Policy, int kDigits>
constexpr Kernel table_kernel(const char* name, Isa isa, std::int64_t layout) {
  return {.name = name,
          .isa = isa,
          .accuracy_level = kDigits == 1 ? 4 : 0,
          .layout = layout,
          .block_rows = Policy::kBlockRows,
          .row_bytes_per_input = kDigits * kTableEntries / kNibble,
          .packed_as = nullptr,
          .min_rows = 1,
          .block_bytes = PackedLayout<Policy>::block_bytes,
          .pack_block = pack_block<Policy>,
          .unpack_block = unpack_block<Policy>,
          .build_tables = build_tables<Policy, kDigits>,
          .multiply = multiply<Policy, kDigits>};
}

}  // namespace
}  // namespace dualbinary
