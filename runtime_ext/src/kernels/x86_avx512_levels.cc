// Level kernel for AVX-512 with VNNI, for calls of many rows with even levels. Its math: kernel.h.
//
// It reads the packed form of the AVX-512 table kernels. For each segment of an output block it makes bytes q of the
// planes once, and multiplies them with all rows of the tile: vpdpbusd adds four products of whole weights to each of
// 16 outputs, where a table kernel's lookup and addition add four bits of one plane. The bytes take 3.5 instructions
// for 64 weights at P = 4 and 6 at P = 8.
//
// Bits become bytes without a lookup: what the four planes have of four neighboring inputs are the nibbles at one place
// of four vectors, a matrix of 4 x 4 bits, and its transpose is four numbers q. Vector i then has the input i of every
// nibble. So the four bytes of an output belong to inputs four apart, and the bytes of x are put in that order.
//
// Error, beside float rounding, in a segment: an input is off by at most half a step. What that makes of the levels'
// center c is put right by the exact sum of the inputs, so that a weight w adds |w - c| * step / 2. For Gaussian inputs
// and random planes that is at most 6.5e-3 of the result's norm at 128 inputs a segment.
#include "contract.h"
#include "kernels/avx512_block.h"
#include "kernels/blocks-inl.h"
#include "kernels/inventory.h"
#include "simd/x86_avx512.h"

namespace dualbinary {
namespace {

constexpr int kMinRows = 4;
constexpr int kMinPlanes = 3;
constexpr float kInputRange = 127;

constexpr int kQuad = 4;      // inputs of one vpdpbusd
constexpr int kSixteen = 16;  // inputs in one half of the bytes of a line
constexpr int kLineQuads = kLineInputs / kQuad;
constexpr int kHalfPlanes = 4;  // whose bits make one half of a byte
constexpr int kMaxHalves = 2;   // groups in a unit
constexpr int kVectors = Avx512Block::kBlockVectors;
constexpr std::size_t kVector = Avx512Block::kVector;
constexpr std::size_t kQuadBytes = kVectors * kVector;  // of the weights of a block

// ---- Rows of X: bytes, [segment][row][quad][4]. Quad i of sixteen inputs holds the inputs i, i + 4, i + 8, i + 12.

// One segment of a row of X, beside the bytes; of each group of the unit where it has two.
struct LevelTerms {
  float step;
  float shift[kMaxHalves];  // what becomes of step * sum of (q * byte): center * rounding error - zero * sum
  float sum[kMaxHalves];    // of the inputs
};

using LevelForm = PreparedForm<LevelTerms, 1, 1>;
using LevelView = SegmentView<LevelTerms>;

// Bytes of one segment of one row to `out`. Returns false where they cannot represent x.
template <class T>
bool build_bytes(const Shape& shape, const T* x, std::int64_t count, std::uint8_t* out, LevelTerms& terms) {
  alignas(64) float values[kMaxSegment];
  F32x16 sums[kMaxHalves] = {F32x16::set(0), F32x16::set(0)};
  F32x16 largest = F32x16::set(0);
  F32x16 magnitude = F32x16::set(0);
  const auto half = [&](std::int64_t k) { return shape.halves == 1 ? 0 : k / kSixteen; };
  for (std::int64_t k = 0; k < shape.segment_size; k += kFloats) {
    const F32x16 v = load_activations<F32x16>(x + k, count - k);
    v.store(values + k);
    sums[half(k)] = F32x16::add(sums[half(k)], v);
    magnitude = F32x16::add(magnitude, v.absolute());
    largest = F32x16::max(largest, v.absolute());
  }
  const float range = largest.reduce_max();
  const float step = range / kInputRange;
  terms = {};
  // As in build_segment() of table-inl.h: NaN, infinity, sums that overflow, and steps without bits.
  if (!(magnitude.reduce_add() <= FLT_MAX) || (range > 0 && step < FLT_MIN)) return false;
  const __m512 inverse = _mm512_set1_ps(range > 0 ? 1 / step : 0);
  const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  __m512i totals[kMaxHalves] = {};
  for (std::int64_t k = 0; k < shape.segment_size; k += kFloats) {
    const __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_load_ps(values + k), inverse));
    totals[half(k)] = _mm512_add_epi32(totals[half(k)], rounded);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + k), _mm_shuffle_epi8(_mm512_cvtepi32_epi8(rounded), order));
  }
  const float center = static_cast<float>((1 << shape.planes) - 1) / 2;
  const float zero = static_cast<float>(shape.twice_zero == kGroupZeros ? 0 : shape.twice_zero) / 2;
  terms.step = step;
  for (int h = 0; h < shape.halves; ++h) {
    terms.sum[h] = sums[h].reduce_add();
    const float rounding = terms.sum[h] - step * static_cast<float>(_mm512_reduce_add_epi32(totals[h]));
    terms.shift[h] = center * rounding - zero * terms.sum[h];
  }
  return true;
}

bool prepare_level_row(const Shape& shape, const Activations& x, std::int64_t row, const PreparedRows& prepared) {
  LevelTerms* terms = LevelForm::terms(shape, prepared);
  return with_row(shape, x, row, [&](const auto* values) {
    bool regular = true;
    for (std::int64_t s = 0; s < shape.segments; ++s) {
      const std::int64_t k = s * shape.segment_size;
      const std::int64_t at = s * prepared.rows + row;
      regular &= build_bytes(shape, values + k, shape.K - k, prepared.data + at * shape.segment_size, terms[at]);
    }
    return regular;
  });
}

// ---- The weights of a segment as bytes: [quad][vector][output][4].

// Bits of a where the mask has ones, of b elsewhere.
inline __m512i select(int mask, __m512i a, __m512i b) {
  constexpr int kFirstChooses = 0xCA;
  return _mm512_ternarylogic_epi32(_mm512_set1_epi8(static_cast<char>(mask)), a, b, kFirstChooses);
}

// Of two planes, in every pair of bits: the first one's lower and the second one's lower bit, and both upper bits.
// Shifts carry bits into neighboring bytes, but only to places that are masked.
inline void transpose_pairs(__m512i first, __m512i second, __m512i& lower, __m512i& upper) {
  lower = select(0x55, first, _mm512_slli_epi16(second, 1));
  upper = select(0x55, _mm512_srli_epi16(first, 1), second);
}

// The same in nibbles and pairs of bits.
inline void transpose_nibbles(__m512i first, __m512i second, __m512i& lower, __m512i& upper) {
  lower = select(0x33, first, _mm512_slli_epi16(second, 2));
  upper = select(0x33, _mm512_srli_epi16(first, 2), second);
}

// From planes to numbers: nibble n of numbers[i] has as its bit p the bit i of nibble n of plane p. Planes past kPlanes
// are zero.
template <int kPlanes>
[[gnu::always_inline]] inline void transpose_bits(const std::uint8_t* plane, std::size_t plane_bytes,
                                                  __m512i* numbers) {
  __m512i planes[kHalfPlanes];
#pragma GCC unroll 4
  for (int p = 0; p < kHalfPlanes; ++p) {
    planes[p] =
        p < kPlanes ? _mm512_loadu_si512(plane + static_cast<std::size_t>(p) * plane_bytes) : _mm512_setzero_si512();
  }
  __m512i low[2];
  __m512i high[2];
  transpose_pairs(planes[0], planes[1], low[0], low[1]);
  transpose_pairs(planes[2], planes[3], high[0], high[1]);
  transpose_nibbles(low[0], high[0], numbers[0], numbers[2]);
  transpose_nibbles(low[1], high[1], numbers[1], numbers[3]);
}

template <int kPlanes>
void make_weights(const LevelView& a, std::int64_t lines, std::uint8_t* weights) {
  const std::size_t plane_bytes = static_cast<std::size_t>(lines) * kQuadBytes;
  const std::size_t next = (kPlanes * plane_bytes) + kVector;  // a segment with its scales, or so
  constexpr int kHighPlanes = kPlanes > kHalfPlanes ? kPlanes - kHalfPlanes : 0;
  for (std::int64_t line = 0; line < lines; ++line) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const std::uint8_t* at = a.lines + static_cast<std::size_t>(line * kVectors + v) * kVector;
      for (int p = 0; p < kPlanes; ++p) fetch_blocks(at + static_cast<std::size_t>(p) * plane_bytes, next);
      __m512i low[kQuad];
      __m512i high[kQuad];
      transpose_bits<kPlanes - kHighPlanes>(at, plane_bytes, low);
      if constexpr (kHighPlanes > 0) transpose_bits<kHighPlanes>(at + kHalfPlanes * plane_bytes, plane_bytes, high);
      std::uint8_t* out = weights + static_cast<std::size_t>(line * kLineQuads * kVectors + v) * kVector;
#pragma GCC unroll 4
      for (int i = 0; i < kQuad; ++i) {
        // The low nibbles of a byte are of the first sixteen inputs, the high ones of the others.
        const __m512i zero = _mm512_setzero_si512();
        const __m512i first = select(15, low[i], kHighPlanes > 0 ? _mm512_slli_epi16(high[i], 4) : zero);
        const __m512i second = select(15, _mm512_srli_epi16(low[i], 4), kHighPlanes > 0 ? high[i] : zero);
        _mm512_store_si512(out + static_cast<std::size_t>(i) * kQuadBytes, first);
        _mm512_store_si512(out + static_cast<std::size_t>(kQuad + i) * kQuadBytes, second);
      }
    }
  }
}

// ---- The product.

constexpr int kTileRows = 8;  // and two vectors of outputs: 16 sums of 32 registers

// One group of a segment, for all rows: y += step * (step of x * sum + shift) + offset * sum of x.
struct Group {
  const std::uint8_t* weights;
  const std::uint8_t* x;  // of row 0
  std::int64_t row_bytes;
  std::int64_t quads;
  const LevelTerms* terms;  // of row 0; those of group `half` count
  std::int64_t half;
  float* y;
  __m512 step[kVectors];
  __m512 offset[kVectors];  // stored, or made of a zero point
};

// Rows m to m + kRows - 1.
template <int kRows, bool kOffset>
void multiply_rows(const Group& a, std::int64_t m) {
  const std::uint8_t* weights = a.weights;
  const std::uint8_t* x = a.x + m * a.row_bytes;
  __m512i sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) sums[r][0] = sums[r][1] = _mm512_setzero_si512();
#pragma GCC unroll 1
  for (std::int64_t quad = 0; quad < a.quads; quad += kQuad) {
#pragma GCC unroll 4
    for (int i = 0; i < kQuad; ++i) {
      const __m512i first = _mm512_load_si512(weights);
      const __m512i second = _mm512_load_si512(weights + kVector);
      weights += kQuadBytes;
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        std::int32_t four;
        std::memcpy(&four, x + r * a.row_bytes + i * kQuad, sizeof(four));
        sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], first, _mm512_set1_epi32(four));
        sums[r][1] = _mm512_dpbusd_epi32(sums[r][1], second, _mm512_set1_epi32(four));
      }
    }
    x += kQuad * kQuad;
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    const LevelTerms& terms = a.terms[m + r];
    float* y = a.y + (m + r) * Avx512Block::kBlockOutputs;
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const __m512 total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r][v]), _mm512_set1_ps(terms.step),
                                           _mm512_set1_ps(terms.shift[a.half]));
      __m512 result = _mm512_fmadd_ps(total, a.step[v], _mm512_loadu_ps(y));
      if constexpr (kOffset) result = _mm512_fmadd_ps(a.offset[v], _mm512_set1_ps(terms.sum[a.half]), result);
      _mm512_storeu_ps(y, result);
      y += Avx512Block::kVectorOutputs;
    }
  }
}

// The last rows, fewer than a tile.
template <int kRows, bool kOffset>
void multiply_rest(const Group& a, std::int64_t m, std::int64_t rows) {
  if constexpr (kRows > 0) {
    if (rows == kRows) return multiply_rows<kRows, kOffset>(a, m);
    multiply_rest<kRows - 1, kOffset>(a, m, rows);
  }
}

// Scales of group a.half of a unit.
void load_group_scales(const Shape& shape, const LevelView& view, Group& a) {
  const auto row = static_cast<int>(a.half * shape.scale_rows);
  for (int v = 0; v < kVectors; ++v) {
    a.step[v] = Avx512Block::load_scales(view.scales, view.scale_type, row, v);
    if (shape.scale_rows > 1) {
      a.offset[v] = Avx512Block::load_scales(view.scales, view.scale_type, row + 1, v);
    } else if (view.zeros != nullptr) {
      const std::uint8_t* at = view.zeros + a.half * Avx512Block::kBlockOutputs + v * Avx512Block::kVectorOutputs;
      const __m512i zero = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
      a.offset[v] = _mm512_mul_ps(a.step[v], _mm512_sub_ps(_mm512_setzero_ps(), _mm512_cvtepi32_ps(zero)));
    }
  }
}

template <int kPlanes, bool kOffset>
void add_segment(const Shape& shape, const LevelView& view) {
  alignas(64) std::uint8_t weights[kMaxSegment * Avx512Block::kBlockOutputs];
  make_weights<kPlanes>(view, shape.segment_size / kLineInputs, weights);
  // The quads of a line are those of its first sixteen inputs and then of the others: groups of 16 lie side by side.
  const std::int64_t quads = shape.segment_size / shape.halves / kQuad;
  for (std::int64_t half = 0; half < shape.halves; ++half) {
    Group group{.weights = weights + static_cast<std::size_t>(half * quads) * kQuadBytes,
                .x = view.integers + half * quads * kQuad,
                .row_bytes = shape.segment_size,
                .quads = quads,
                .terms = view.terms,
                .half = half,
                .y = view.y,
                .step = {},
                .offset = {}};
    load_group_scales(shape, view, group);
    std::int64_t m = 0;
    for (; m + kTileRows <= view.rows; m += kTileRows) multiply_rows<kTileRows, kOffset>(group, m);
    multiply_rest<kTileRows - 1, kOffset>(group, m, view.rows - m);
  }
}

using AddSegment = void (*)(const Shape&, const LevelView&);

template <int kPlanes>
AddSegment add_segment_of(const Shape& shape) {
  if constexpr (kPlanes > 1) {
    if (shape.planes < kPlanes) return add_segment_of<kPlanes - 1>(shape);
  }
  return shape.scale_rows > 1 || shape.twice_zero == kGroupZeros ? add_segment<kPlanes, true>
                                                                 : add_segment<kPlanes, false>;
}

bool multiply_levels(const Product& a) {
  const AddSegment add = add_segment_of<contract::kMaxPlanes>(*a.shape);
  return for_blocks<Avx512Block, LevelForm>(a, [&](const LevelView& view) { add(*a.shape, view); });
}

}  // namespace

constinit const MatMulKernel level8_n32_avx512 = {.name = "level8_n32_avx512",
                                                  .isa = Isa::kAvx512,
                                                  .accuracy_level = 4,
                                                  .layout = contract::kLayoutAvx512,
                                                  .free_levels = false,
                                                  .even_levels = true,
                                                  .block_outputs = Avx512Block::kBlockOutputs,
                                                  .packed_as = &table8_n32_avx512,
                                                  .min_rows = kMinRows,
                                                  .min_planes = kMinPlanes,
                                                  .block_bytes = PackedLayout<Avx512Block>::block_bytes,
                                                  .pack_block = pack_block<Avx512Block>,
                                                  .unpack_block = unpack_block<Avx512Block>,
                                                  .prepared_bytes = LevelForm::bytes,
                                                  .prepare_row = prepare_level_row,
                                                  .multiply = multiply_levels};

}  // namespace dualbinary
