// Level kernels for even levels on x86 (their math: kernel.h), generic over the ISA. As blocks-inl.h, all of it is
// private to each ISA file.
//
// A level kernel reads the packed form of the table kernels. For each segment of an output block it makes bytes q of
// the planes once and multiplies them with all rows of the tile.
//
// Bits become bytes without a lookup: what four planes have of four neighboring inputs are the nibbles at one place of
// four vectors, a matrix of 4 x 4 bits, and its transpose is four numbers q. Vector i then has the input i of every
// nibble.
//
// Error, beside float rounding, in a segment: an input is off by at most half a step. What that makes of the levels'
// center c is put right by the exact sum of the inputs, so that a weight w adds |w - c| * step / 2. For Gaussian inputs
// and random planes that is at most 6.5e-3 of the result's norm at 128 inputs a segment where an input is one byte
// (level 4). Where it is two, 256 * high + low or a word, the step is 257 times smaller (level 0), and so is the error.
//
// A `Policy` has
//
//   Block                        what blocks-inl.h and pack-inl.h ask for
//   kElementBytes                of a weight, and of a digit of an input: 1, or 2 for words
//   kDigits                      of an input: 1, or 2, bytes, with the low ones of a segment before the high ones
//   min_rows(Shape)              rows from which it is faster than tables, as measured (docs/log/kernels.md)
//   kTileRows                    rows that multiply_rows takes, at most
//   kWeightBytes                 of all weights of a segment
//   store(F32x16, out, stride)   rounds sixteen numbers, stores digit d at out + d * stride, in the order in which the
//                                inputs of its weights lie, and returns their sum
//   make_weights<Planes>         the weights of a segment
//   multiply_rows<Rows, Offset>  adds one group of a segment to the results of some rows
//   kFewRows                     rows of add_rows<Planes, Rows, Offset>, at most: a segment of units of one group, with
//                                weights, scales and results in registers; 0: there is no such function
#pragma once

#include <cfloat>
#include <cstddef>
#include <cstdint>

#include "contract.h"
#include "kernels/blocks-inl.h"
#include "kernels/kernel.h"

namespace dualbinary {
namespace {

constexpr std::int64_t kNever = INT64_MAX;        // of min_rows()
constexpr int kInputRanges[] = {127, 127 * 257};  // by bytes of an input, less one
constexpr int kDigitUnit = 256;
constexpr int kQuad = 4;        // inputs whose products one instruction adds up
constexpr int kHalfPlanes = 4;  // whose bits make one half of a byte
constexpr int kMaxHalves = 2;   // groups in a unit

// One segment of a row of X, beside the bytes; of each group of the unit where it has two.
struct LevelTerms {
  float step;
  float shift[kMaxHalves];  // what step * sum of (q * byte) lacks: center * rounding error - zero * sum
  float sum[kMaxHalves];    // of the inputs
};

template <class Policy>
constexpr int kInputBytes = Policy::kDigits * Policy::kElementBytes;

// Integers: [segment][row][digit][input].
template <class Policy>
using LevelForm = PreparedForm<LevelTerms, kInputBytes<Policy>, 1>;
using LevelView = SegmentView<LevelTerms>;

// One group of a segment, for all rows: y += step * (step of x * sum + shift) + offset * sum of x.
template <class Policy>
struct Group {
  const std::uint8_t* weights;  // of its first inputs
  const std::uint8_t* x;        // of row 0
  std::int64_t row_bytes;
  std::int64_t digit_bytes;
  std::int64_t quads;
  std::int64_t planes;
  const LevelTerms* terms;  // of row 0; those of group `half` count
  std::int64_t half;
  float* y;  // of row 0
  alignas(kAlignment) float step[Policy::Block::kBlockOutputs];
  alignas(kAlignment) float offset[Policy::Block::kBlockOutputs];  // stored, or made of a zero point
};

inline std::int32_t sum_of_bytes(__m128i bytes) {
  constexpr int kBias = 128;
  const __m128i biased = _mm_xor_si128(bytes, _mm_set1_epi8(static_cast<char>(kBias)));
  const __m128i halves = _mm_sad_epu8(biased, _mm_setzero_si128());
  return _mm_cvtsi128_si32(halves) + _mm_extract_epi16(halves, 4) - kFloats * kBias;
}

// Integers of one segment of one row to `out`. Returns false where they cannot represent x.
template <class Policy, class T>
bool build_integers(const Shape& shape, const T* x, std::int64_t count, std::uint8_t* out, LevelTerms& terms) {
  using F32x16 = typename Policy::Block::F32x16;
  alignas(kAlignment) float values[kMaxSegment];
  F32x16 sums[kMaxHalves] = {F32x16::set(0), F32x16::set(0)};
  F32x16 largest = F32x16::set(0);
  F32x16 magnitude = F32x16::set(0);
  const auto half = [&](std::int64_t k) { return shape.halves == 1 ? 0 : k / kFloats; };
  for (std::int64_t k = 0; k < shape.segment_size; k += kFloats) {
    const F32x16 v = load_activations<F32x16>(x + k, count - k);
    v.store(values + k);
    sums[half(k)] = F32x16::add(sums[half(k)], v);
    magnitude = F32x16::add(magnitude, v.absolute());
    largest = F32x16::max(largest, v.absolute());
  }
  const float range = largest.reduce_max();
  const float step = range / static_cast<float>(kInputRanges[kInputBytes<Policy> - 1]);
  terms = {};
  // As in build_segment() of table-inl.h: NaN, infinity, sums that overflow, and steps without bits.
  if (!(magnitude.reduce_add() <= FLT_MAX) || (range > 0 && step < FLT_MIN)) return false;
  const F32x16 inverse = F32x16::set(range > 0 ? 1 / step : 0);
  std::int32_t totals[kMaxHalves] = {};
  for (std::int64_t k = 0; k < shape.segment_size; k += kFloats) {
    const F32x16 scaled = F32x16::multiply(F32x16::load(values + k), inverse);
    totals[half(k)] += Policy::store(scaled, out + k * Policy::kElementBytes, shape.segment_size);
  }
  const float center = static_cast<float>((1 << shape.planes) - 1) / 2;
  const float zero = static_cast<float>(shape.twice_zero == kGroupZeros ? 0 : shape.twice_zero) / 2;
  terms.step = step;
  for (int h = 0; h < shape.halves; ++h) {
    terms.sum[h] = sums[h].reduce_add();
    const float rounding = terms.sum[h] - step * static_cast<float>(totals[h]);
    terms.shift[h] = center * rounding - zero * terms.sum[h];
  }
  return true;
}

template <class Policy>
bool prepare_level_row(const Shape& shape, const Activations& x, std::int64_t row, const PreparedRows& prepared) {
  using Form = LevelForm<Policy>;
  LevelTerms* terms = Form::terms(shape, prepared);
  return with_row(shape, x, row, [&](const auto* values) {
    bool regular = true;
    for (std::int64_t s = 0; s < shape.segments; ++s) {
      const std::int64_t k = s * shape.segment_size;
      const std::int64_t at = s * prepared.rows + row;
      std::uint8_t* out = prepared.data + at * shape.segment_size * Form::kInputBytes;
      regular &= build_integers<Policy>(shape, values + k, shape.K - k, out, terms[at]);
    }
    return regular;
  });
}

// Scales of group a.half of a unit.
template <class Policy>
void load_group_scales(const Shape& shape, const LevelView& view, Group<Policy>& a) {
  using Block = typename Policy::Block;
  const std::int64_t row = a.half * shape.scale_rows * Block::kBlockOutputs;
  const auto load = [&](std::int64_t first, float* out) {
    using F32x16 = typename Block::F32x16;
    for (std::int64_t i = 0; i < Block::kBlockOutputs; i += kFloats) {
      (view.scale_type == Element::kFloat16
           ? F32x16::load(reinterpret_cast<const std::uint16_t*>(view.scales) + first + i)
           : F32x16::load(reinterpret_cast<const float*>(view.scales) + first + i))
          .store(out + i);
    }
  };
  Block::fetch(view.scales);
  load(row, a.step);
  if (shape.scale_rows > 1) {
    load(row + Block::kBlockOutputs, a.offset);
  } else if (view.zeros != nullptr) {
    const std::uint8_t* zeros = view.zeros + a.half * Block::kBlockOutputs;
    for (int i = 0; i < Block::kBlockOutputs; ++i) a.offset[i] = -a.step[i] * static_cast<float>(zeros[i]);
  }
}

// The last rows, fewer than a tile.
template <class Policy, int kRows, bool kOffset>
void multiply_rest(const Group<Policy>& a, std::int64_t m, std::int64_t rows) {
  if constexpr (kRows > 0) {
    if (rows == kRows) return Policy::template multiply_rows<kRows, kOffset>(a, m);
    multiply_rest<Policy, kRows - 1, kOffset>(a, m, rows);
  }
}

template <class Policy, int kPlanes, bool kOffset>
void add_segment(const Shape& shape, const LevelView& view) {
  const std::int64_t lines = shape.segment_size / kLineInputs;
  // Groups of 16 are the first and the second half of a line, side by side.
  const std::int64_t quads = shape.segment_size / shape.halves / kQuad;
  const std::int64_t input_bytes = quads * kQuad * Policy::kElementBytes;  // of one digit of a group
  Group<Policy> group;
  group.digit_bytes = shape.segment_size;
  group.row_bytes = shape.segment_size * kInputBytes<Policy>;
  group.quads = quads;
  group.planes = kPlanes;
  group.terms = view.terms;
  group.y = view.y;
  alignas(kAlignment) std::uint8_t weights[Policy::kWeightBytes];
  Policy::template make_weights<kPlanes>(view, lines, weights);
  for (std::int64_t half = 0; half < shape.halves; ++half) {
    group.half = half;
    group.weights = weights + half * input_bytes * Policy::Block::kBlockOutputs;
    group.x = view.integers + half * input_bytes;
    load_group_scales(shape, view, group);
    std::int64_t m = 0;
    for (; m + Policy::kTileRows <= view.rows; m += Policy::kTileRows) {
      Policy::template multiply_rows<Policy::kTileRows, kOffset>(group, m);
    }
    multiply_rest<Policy, Policy::kTileRows - 1, kOffset>(group, m, view.rows - m);
  }
}

template <class Policy, int kPlanes, bool kOffset>
bool multiply_tile(const Product& a) {
  return for_blocks<typename Policy::Block, LevelForm<Policy>>(
      a, [&](const LevelView& view) { add_segment<Policy, kPlanes, kOffset>(*a.shape, view); });
}

// kRows rows, with their results in registers.
template <class Policy, int kPlanes, int kRows, bool kOffset>
bool multiply_few(const Product& a) {
  using Results = RowResults<typename Policy::Block, kRows>;
  const Shape& shape = *a.shape;
  return for_results<typename Policy::Block, LevelForm<Policy>, Results>(
      a, [&](const LevelView& view, Results& results) __attribute__((always_inline)) {
        Policy::template add_rows<kPlanes, kRows, kOffset>(shape, view, results.y);
      });
}

template <class Policy, int kPlanes, bool kOffset, int kRows = Policy::kFewRows>
bool multiply_planes(const Product& a) {
  if constexpr (kRows > 0 && kPlanes > 3) {
    if (a.shape->halves == 1 && a.x.rows == kRows) return multiply_few<Policy, kPlanes, kRows, kOffset>(a);
    return multiply_planes<Policy, kPlanes, kOffset, kRows - 1>(a);
  }
  return multiply_tile<Policy, kPlanes, kOffset>(a);
}

template <class Policy, int kPlanes = contract::kMaxPlanes>
bool multiply_levels(const Product& a) {
  const Shape& shape = *a.shape;
  if constexpr (kPlanes > 1) {
    if (shape.planes < kPlanes) return multiply_levels<Policy, kPlanes - 1>(a);
  }
  const bool offset = shape.scale_rows > 1 || shape.twice_zero == kGroupZeros;
  return offset ? multiply_planes<Policy, kPlanes, true>(a) : multiply_planes<Policy, kPlanes, false>(a);
}

template <class Policy>
constexpr MatMulKernel level_kernel(const char* name, Isa isa, std::int64_t layout, const MatMulKernel* packed_as) {
  using Block = typename Policy::Block;
  return {.name = name,
          .isa = isa,
          .accuracy_level = kInputBytes<Policy> == 1 ? 4 : 0,
          .layout = layout,
          .free_levels = false,
          .even_levels = true,
          .block_outputs = Block::kBlockOutputs,
          .packed_as = packed_as,
          .min_rows = Policy::min_rows,
          .block_bytes = PackedLayout<Block>::block_bytes,
          .pack_block = pack_block<Block>,
          .unpack_block = unpack_block<Block>,
          .prepared_bytes = LevelForm<Policy>::bytes,
          .prepare_row = prepare_level_row<Policy>,
          .multiply = multiply_levels<Policy>};
}

}  // namespace
}  // namespace dualbinary
