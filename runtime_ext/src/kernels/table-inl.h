// Table kernels (their math: kernel.h), generic over the ISA. Everything is in an unnamed namespace and nothing of the
// standard library is instantiated: each ISA file gets a private copy, compiled with its own flags.
//
// Beside what blocks-inl.h asks of it, a `Policy` has
//
//   kPlanesPerPass<Lines>    planes that one pass over the tables of a segment can accumulate
//   accumulate<Digits, Lines, Planes, Offset>
//                            adds one segment of `Planes` planes (and the offset) to the results of all rows of the
//                            tile, and prefetches the packed stream ahead of what it reads
//   kRowApart                whether it takes one row as RowView, with results in registers; then accumulate() and
//                            accumulate_even() have overloads for that view, and are inlined
//   kEvenLevels              whether it has what follows, for even levels
//   even_planes<Digits, Lines, Pairs>()
//                            planes that one pass can join in integers, whatever the rows
//   accumulate_even<Digits, Lines, Pairs>
//                            adds one segment of the pass's planes to the results of all rows, and prefetches. With
//                            Pairs, Lines is 1, and the line is two groups of 16 inputs, the halves
#pragma once

#include <cfloat>
#include <cstddef>
#include <cstdint>

#include "kernels/blocks-inl.h"
#include "kernels/kernel.h"

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

// +-1/2 for input i of a nibble and subset s: plus where s selects i. The sum over i of sign * x is the centered entry.
alignas(64) constexpr float kHalfSign[kNibble][kTableEntries] = {
    {-.5F, .5F, -.5F, .5F, -.5F, .5F, -.5F, .5F, -.5F, .5F, -.5F, .5F, -.5F, .5F, -.5F, .5F},
    {-.5F, -.5F, .5F, .5F, -.5F, -.5F, .5F, .5F, -.5F, -.5F, .5F, .5F, -.5F, -.5F, .5F, .5F},
    {-.5F, -.5F, -.5F, -.5F, .5F, .5F, .5F, .5F, -.5F, -.5F, -.5F, -.5F, .5F, .5F, .5F, .5F},
    {-.5F, -.5F, -.5F, -.5F, -.5F, -.5F, -.5F, -.5F, .5F, .5F, .5F, .5F, .5F, .5F, .5F, .5F},
};

// One segment of a row of X, beside the entries. Of a pair of groups `start` and `sum` are those of the first.
struct TableTerms {
  float step;
  std::int32_t start;
  float sum;  // of the inputs, for offsets and zero points
  std::int32_t second_start;
  float second_sum;
};

// Entries: [segment][row][digit, lowest first][nibble][16].
template <int kDigits>
using TableForm = PreparedForm<TableTerms, kDigits * kTableEntries / kNibble, 1>;

using TableView = SegmentView<TableTerms>;

// One row, whose results are not in memory.
template <class F32x16>
struct RowView : TableView {
  F32x16* results;  // [kBlockOutputs / kFloats]
};

// One pass over some planes of a segment of even levels. `Segment` is one of the views above.
template <class Segment>
struct EvenPass : Segment {
  int planes;               // of the pass
  float weight;             // of its first plane: 2^p
  bool first;               // of the segment: it takes along what depends on the sum of x
  bool offset;              // scales have a row of offsets behind that of the steps
  std::size_t scale_bytes;  // of a row of scales
};

using EvenView = EvenPass<TableView>;

template <class View>
const std::uint8_t* steps_of(const View& a, int half) {
  return a.scales + static_cast<std::size_t>(half * (a.offset ? 2 : 1)) * a.scale_bytes;
}

// What the sum of the entries of `nibbles` nibbles lacks, by their planes and bias.
template <int kDigits, class View>
std::int32_t even_start(const View& a, const TableTerms& terms, int half, int nibbles) {
  const std::int32_t start = half == 0 ? terms.start : terms.second_start;
  return (a.first ? start : 0) - ((1 << a.planes) - 1) * kBias<kDigits> * nibbles;
}

inline float sum_of_x(const TableTerms& terms, int half) { return half == 0 ? terms.sum : terms.second_sum; }

// How start values follow from sums of inputs.
struct StartRule {
  float share;   // of the sum
  bool centers;  // it takes the bias of the entries away, as one plane does that stands by itself
  bool pairs;    // a segment has two groups
};

inline StartRule start_rule(const Shape& shape) {
  if (shape.levels == kFreeLevels) return {0.5F, true, false};
  const std::int64_t twice_zero = shape.twice_zero == kGroupZeros ? 0 : shape.twice_zero;
  const auto twice = static_cast<float>((std::int64_t{1} << shape.planes) - 1 - twice_zero);
  return {0.5F * twice, false, shape.halves == 2};
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

// Tables of one terms. `count` of its inputs exist. Returns false where they cannot represent x.
template <class F32x16, int kDigits, class T>
bool build_segment(const T* x, std::int64_t count, std::int64_t size, const StartRule& rule, std::uint8_t* entries,
                   TableTerms& terms) {
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
    terms = {};
    return false;
  }
  const float inverse = half_range > 0 ? 1 / step : 0;
  const auto nibbles = static_cast<std::int32_t>(size / kNibble);
  const auto digit_bytes = static_cast<std::size_t>(nibbles) * kTableEntries;
  build_entries<F32x16, kDigits>(values, size, inverse, entries, digit_bytes);
  terms.step = step;
  terms.sum = rule.pairs ? F32x16::load(values).reduce_add() : sum.reduce_add();
  // In steps first: the sum of inputs near the largest float, times a zero point, would be infinite, and no integer.
  terms.start = F32x16::round_scalar(rule.share * (terms.sum * inverse));
  if (rule.centers) terms.start -= kBias<kDigits> * nibbles;
  if (rule.pairs) {
    terms.second_sum = F32x16::load(values + kTableEntries).reduce_add();
    terms.second_start = F32x16::round_scalar(rule.share * (terms.second_sum * inverse));
  }
  return true;
}

template <class Policy, int kDigits>
bool prepare_row(const Shape& shape, const Activations& x, std::int64_t row, const PreparedRows& prepared) {
  using Form = TableForm<kDigits>;
  TableTerms* terms = Form::terms(shape, prepared);
  const StartRule rule = start_rule(shape);
  return with_row(shape, x, row, [&](const auto* values) {
    bool regular = true;
    for (std::int64_t s = 0; s < shape.segments; ++s) {
      const std::int64_t k = s * shape.segment_size;
      const std::int64_t at = s * prepared.rows + row;
      regular &= build_segment<typename Policy::F32x16, kDigits>(
          values + k, shape.K - k, shape.segment_size, rule,
          prepared.data + at * shape.segment_size * Form::kInputBytes, terms[at]);
    }
    return regular;
  });
}

// The last pass of a segment, of at most kPlanes planes, takes the offset along.
template <class Policy, int kDigits, int kLines, int kPlanes, class View>
[[gnu::always_inline]] inline void accumulate_last(std::int64_t planes, bool offset, const View& view) {
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
template <class Policy, int kDigits, int kLines, class View>
[[gnu::always_inline]] inline void accumulate_segment(const Shape& shape, View view) {
  constexpr int kPass = Policy::template kPlanesPerPass<kLines>;
  std::int64_t left = shape.planes;
  for (; left > kPass; left -= kPass) {
    Policy::template accumulate<kDigits, kLines, kPass, false>(view);
    view.lines += kPass * kLines * PackedLayout<Policy>::kLineBytes;
    view.scales += kPass * PackedLayout<Policy>::scale_row_bytes(view.scale_type);
  }
  accumulate_last<Policy, kDigits, kLines, kPass>(left, shape.scale_rows > shape.planes, view);
}

// The same for even levels.
template <class Policy, int kDigits, int kLines, bool kPairs, class View>
[[gnu::always_inline]] inline void accumulate_even_segment(const Shape& shape, const View& segment) {
  const int most = Policy::template even_planes<kDigits, kLines, kPairs>();
  EvenPass<View> view{
      segment, 0, 1, true, shape.scale_rows > 1, PackedLayout<Policy>::scale_row_bytes(segment.scale_type)};
  for (int left = static_cast<int>(shape.planes); left > 0; left -= view.planes) {
    view.planes = left < most ? left : most;
    Policy::template accumulate_even<kDigits, kLines, kPairs>(view);
    view.lines += static_cast<std::size_t>(view.planes * kLines) * PackedLayout<Policy>::kLineBytes;
    view.weight *= static_cast<float>(1 << view.planes);
    view.first = false;
  }
}

// accumulate() of a policy that takes one plane a pass: as many rows at once as its registers hold, then one by one.
template <class Policy, int kDigits, int kLines, bool kOffset>
[[gnu::always_inline]] inline void accumulate_in_tiles(const TableView& view) {
  Policy::fetch(view.scales);
  constexpr int kTile = Policy::template kRowTile<kDigits>;
  std::int64_t m = 0;
  for (; m + kTile <= view.rows; m += kTile) {
    Policy::template accumulate_rows<kDigits, kLines, kOffset, kTile>(view, m);
  }
  for (; m < view.rows; ++m) Policy::template accumulate_rows<kDigits, kLines, kOffset, 1>(view, m);
}

// Planes whose entries fit lanes of 16 bits when they are joined.
template <int kLines, bool kPairs>
constexpr int even_planes_in_words() {
  constexpr int kNibbles = kLines * kLineInputs / kNibble / (kPairs ? 2 : 1);
  int planes = 1;
  while ((2 << planes) - 1 <= 0xffff / (kNibbles * ((1 << kDigitBits) - 1)) && planes < contract::kMaxPlanes) ++planes;
  return planes;
}

// accumulate_even() of a policy whose line has the halves one after the other, half a line each: rows as above, and
// halves one by one. Its accumulate_even_rows<Digits, Lines, Begin, End, Rows>(view, m, half) adds `half`, which is the
// half lines Begin to End of each plane's Lines lines.
template <class Policy, int kDigits, int kLines, bool kPairs>
[[gnu::always_inline]] inline void accumulate_even_in_tiles(const EvenView& view) {
  Policy::fetch(view.scales);
  if (view.zeros != nullptr && view.first) Policy::fetch(view.zeros);
  constexpr int kTile = Policy::template kRowTile<kDigits>;
  constexpr int kEnd = kPairs ? 1 : 2 * kLines;
  std::int64_t m = 0;
  for (; m + kTile <= view.rows; m += kTile) {
    Policy::template accumulate_even_rows<kDigits, kLines, 0, kEnd, kTile>(view, m, 0);
    if constexpr (kPairs) Policy::template accumulate_even_rows<kDigits, kLines, 1, 2, kTile>(view, m, 1);
  }
  for (; m < view.rows; ++m) {
    Policy::template accumulate_even_rows<kDigits, kLines, 0, kEnd, 1>(view, m, 0);
    if constexpr (kPairs) Policy::template accumulate_even_rows<kDigits, kLines, 1, 2, 1>(view, m, 1);
  }
}

// Calls add() with all segments as views: those of one row where the policy takes it apart from others.
template <class Policy, int kDigits, class AddSegment>
bool for_views(const Product& a, const AddSegment& add) {
  using Form = TableForm<kDigits>;
  if constexpr (Policy::kRowApart) {
    using View = RowView<typename Policy::F32x16>;
    if (a.x.rows == 1) {
      return for_results<Policy, Form, RowResults<Policy>>(
          a, [&](const TableView& view, RowResults<Policy>& results) __attribute__((always_inline)) {
            View row{view, results.y};
            row.rows = 1;  // for the compiler
            add(row);
          });
    }
  }
  return for_blocks<Policy, Form>(a, add);
}

template <class Policy, int kDigits, int kLines, bool kPairs = false>
bool multiply_even_blocks(const Product& a) {
  return for_views<Policy, kDigits>(a, [&](const auto& view) __attribute__((always_inline)) {
    accumulate_even_segment<Policy, kDigits, kLines, kPairs>(*a.shape, view);
  });
}

template <class Policy, int kDigits>
bool multiply_even(const Product& a) {
  if (a.shape->halves == 2) return multiply_even_blocks<Policy, kDigits, 1, true>(a);
  switch (a.shape->segment_size / kLineInputs) {
    case 1:
      return multiply_even_blocks<Policy, kDigits, 1>(a);
    case 2:
      return multiply_even_blocks<Policy, kDigits, 2>(a);
    case 3:
      return multiply_even_blocks<Policy, kDigits, 3>(a);
    default:
      return multiply_even_blocks<Policy, kDigits, 4>(a);
  }
}

template <class Policy, int kDigits, int kLines>
bool multiply_blocks(const Product& a) {
  return for_views<Policy, kDigits>(a, [&](const auto& view) __attribute__((always_inline)) {
    accumulate_segment<Policy, kDigits, kLines>(*a.shape, view);
  });
}

template <class Policy, int kDigits>
bool multiply(const Product& a) {
  static_assert(kMaxLines == 4, "one case for each number of lines in a segment");
  if constexpr (Policy::kEvenLevels) {
    if (a.shape->levels == kEvenLevels) return multiply_even<Policy, kDigits>(a);
  }
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
constexpr MatMulKernel table_kernel(const char* name, Isa isa, std::int64_t layout) {
  return {.name = name,
          .isa = isa,
          .accuracy_level = kDigits == 1 ? 4 : 0,
          .layout = layout,
          .free_levels = true,
          .even_levels = Policy::kEvenLevels,
          .block_outputs = Policy::kBlockOutputs,
          .packed_as = nullptr,
          .min_rows = nullptr,
          .block_bytes = PackedLayout<Policy>::block_bytes,
          .pack_block = pack_block<Policy>,
          .unpack_block = unpack_block<Policy>,
          .prepared_bytes = TableForm<kDigits>::bytes,
          .prepare_row = prepare_row<Policy, kDigits>,
          .multiply = multiply<Policy, kDigits>};
}

}  // namespace
}  // namespace dualbinary
