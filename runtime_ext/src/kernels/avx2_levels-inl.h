// Level kernels for AVX2, and for what adds to it, over the packed form of avx2_block.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "contract.h"
#include "kernels/avx2_block.h"
#include "kernels/x86_levels-inl.h"

namespace dualbinary {
namespace {

// Exchanges the bits of `first` that stand kShift above those of the mask with the masked bits of `second`. Shifts
// carry bits into neighboring bytes, but only to places that are not masked.
template <int kShift>
inline void exchange(__m256i& first, __m256i& second, int mask) {
  const __m256i differ = _mm256_and_si256(_mm256_xor_si256(_mm256_srli_epi16(first, kShift), second),
                                          _mm256_set1_epi8(static_cast<char>(mask)));
  second = _mm256_xor_si256(second, differ);
  first = _mm256_xor_si256(first, _mm256_slli_epi16(differ, kShift));
}

inline __m256i load(const std::uint8_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }

// The 32 bits at `at`, which are inputs, for all outputs of a vector.
inline __m256i load_inputs(const std::uint8_t* at) {
  std::int32_t inputs;
  std::memcpy(&inputs, at, sizeof(inputs));
  return _mm256_set1_epi32(inputs);
}

// Sixteen numbers, in order.
inline __m256i rounded_words(F32x16 x) {
  constexpr int kEvenQuartersFirst = 0xD8;  // packs work within halves
  return _mm256_permute4x64_epi64(_mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)),
                                  kEvenQuartersFirst);
}

// Numbers of at most four planes for eight inputs of all outputs: the low nibbles of numbers[i] are of input i, the
// high ones of input 4 + i. Outputs are in the order in which unpacking their bytes to 32 bits, within halves of a
// vector, puts them in line.
template <int kPlanes>
[[gnu::always_inline]] inline void transpose(const std::uint8_t* plane, std::size_t plane_bytes, __m256i* numbers) {
#pragma GCC unroll 4
  for (int p = 0; p < kQuad; ++p) {
    numbers[p] = p < kPlanes ? load(plane + static_cast<std::size_t>(p) * plane_bytes) : _mm256_setzero_si256();
  }
  exchange<1>(numbers[0], numbers[1], 0x55);
  exchange<1>(numbers[2], numbers[3], 0x55);
  exchange<2>(numbers[0], numbers[2], 0x33);
  exchange<2>(numbers[1], numbers[3], 0x33);
  const __m256i even_first =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
  const __m256i fours = _mm256_setr_epi32(0, 4, 2, 6, 1, 5, 3, 7);
#pragma GCC unroll 4
  for (int p = 0; p < kQuad; ++p) {
    numbers[p] = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(numbers[p], even_first), fours);
  }
}

// Whole numbers q for eight inputs of all outputs, as transpose() orders them: bytes[i] are of input i.
template <int kPlanes>
[[gnu::always_inline]] inline void whole_numbers(const std::uint8_t* at, std::size_t plane_bytes, __m256i* bytes) {
  constexpr int kHighPlanes = kPlanes > kHalfPlanes ? kPlanes - kHalfPlanes : 0;
  const __m256i mask = _mm256_set1_epi8(15);
  __m256i low[kQuad];
  __m256i high[kQuad];
  transpose<kPlanes - kHighPlanes>(at, plane_bytes, low);
  if constexpr (kHighPlanes > 0) transpose<kHighPlanes>(at + kHalfPlanes * plane_bytes, plane_bytes, high);
#pragma GCC unroll 4
  for (int i = 0; i < kQuad; ++i) {
    bytes[i] = _mm256_and_si256(low[i], mask);
    bytes[kQuad + i] = _mm256_and_si256(_mm256_srli_epi16(low[i], 4), mask);
    if constexpr (kHighPlanes > 0) {
      bytes[i] = _mm256_or_si256(bytes[i], _mm256_slli_epi16(_mm256_and_si256(high[i], mask), 4));
      bytes[kQuad + i] = _mm256_or_si256(bytes[kQuad + i], _mm256_andnot_si256(mask, high[i]));
    }
  }
}

// Four vectors of bytes side by side.
inline void store_quad(const __m256i* bytes, std::uint8_t* out) {
  const __m256i low0 = _mm256_unpacklo_epi8(bytes[0], bytes[1]);
  const __m256i low1 = _mm256_unpacklo_epi8(bytes[2], bytes[3]);
  const __m256i high0 = _mm256_unpackhi_epi8(bytes[0], bytes[1]);
  const __m256i high1 = _mm256_unpackhi_epi8(bytes[2], bytes[3]);
  auto* vectors = reinterpret_cast<__m256i*>(out);
  _mm256_store_si256(vectors, _mm256_unpacklo_epi16(low0, low1));
  _mm256_store_si256(vectors + 1, _mm256_unpackhi_epi16(low0, low1));
  _mm256_store_si256(vectors + 2, _mm256_unpacklo_epi16(high0, high1));
  _mm256_store_si256(vectors + 3, _mm256_unpackhi_epi16(high0, high1));
}

// Two vectors of bytes side by side, as words.
inline void store_pair(const __m256i* bytes, std::uint8_t* out) {
  const __m256i zero = _mm256_setzero_si256();
  const __m256i low = _mm256_unpacklo_epi8(bytes[0], bytes[1]);
  const __m256i high = _mm256_unpackhi_epi8(bytes[0], bytes[1]);
  auto* vectors = reinterpret_cast<__m256i*>(out);
  _mm256_store_si256(vectors, _mm256_unpacklo_epi8(low, zero));
  _mm256_store_si256(vectors + 1, _mm256_unpackhi_epi8(low, zero));
  _mm256_store_si256(vectors + 2, _mm256_unpacklo_epi8(high, zero));
  _mm256_store_si256(vectors + 3, _mm256_unpackhi_epi8(high, zero));
}

// Sixteen numbers as bytes in order; returns their sum.
inline std::int32_t store_bytes(F32x16 x, std::uint8_t* out) {
  const __m256i words = rounded_words(x);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), bytes);
  return sum_of_bytes(bytes);
}

// What all of these kernels have. A `Policy` has
//
//   make_eight<Planes>   the weights of eight inputs, from the vectors of their planes
//   add_products<Rows>   those of one group of a segment and two vectors of outputs, for some rows
template <class Policy>
struct Avx2Levels {
  using Block = Avx2Block;
  static constexpr int kDigits = 1;
  static constexpr int kFewRows = 0;
  static constexpr int kTileRows = 6;  // and two vectors of outputs: 12 sums of 16 registers
  static constexpr int kVectorOutputs = 8;
  static constexpr int kVectors = Block::kBlockOutputs / kVectorOutputs;
  static constexpr int kVectorsAtOnce = 2;
  static constexpr std::size_t kVector = Block::kVector;
  static constexpr std::size_t kStepBytes = kVectors * kVector;  // of weights: 32 bits for each output

  template <int kPlanes>
  static void make_weights(const LevelView& a, std::int64_t lines, std::uint8_t* weights) {
    const std::int64_t eights = lines * kLineInputs / 8;
    const std::size_t plane_bytes = static_cast<std::size_t>(eights) * kVector;
    const std::size_t next = kPlanes * plane_bytes + 2 * kVector;  // a segment with its scales, or so
    for (std::int64_t eight = 0; eight < eights; ++eight) {
      const std::uint8_t* at = a.lines + static_cast<std::size_t>(eight) * kVector;
      if (eight % 2 == 0) {
        for (int p = 0; p < kPlanes; ++p) fetch_blocks(at + static_cast<std::size_t>(p) * plane_bytes, next);
      }
      Policy::template make_eight<kPlanes>(at, plane_bytes,
                                           weights + static_cast<std::size_t>(eight) * Policy::kEightBytes);
    }
  }

  // The outputs of two vectors from number `v` on, of one row. What is read comes first: the compiler would read it
  // again after each result, which for all that it knows may lie there.
  template <bool kOffset>
  [[gnu::always_inline]] static void finish_row(const Group<Policy>& a, std::int64_t m, int v, const __m256i* sums) {
    const LevelTerms& terms = a.terms[m];
    const __m256 step = _mm256_set1_ps(terms.step);
    const __m256 shift = _mm256_set1_ps(terms.shift[a.half]);
    const __m256 sum_of_x = _mm256_set1_ps(kOffset ? terms.sum[a.half] : 0);
    const int n = v * kVectorOutputs;
    float* y = a.y + m * Block::kBlockOutputs + n;
    __m256 results[kVectorsAtOnce];
#pragma GCC unroll 2
    for (int i = 0; i < kVectorsAtOnce; ++i) {
      const __m256 total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[i]), step, shift);
      const int at = i * kVectorOutputs;
      results[i] = _mm256_fmadd_ps(total, _mm256_load_ps(a.step + n + at), _mm256_loadu_ps(y + at));
      if constexpr (kOffset) results[i] = _mm256_fmadd_ps(_mm256_load_ps(a.offset + n + at), sum_of_x, results[i]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < kVectorsAtOnce; ++i) _mm256_storeu_ps(y + i * kVectorOutputs, results[i]);
  }

  // Rows m to m + kRows - 1.
  template <int kRows, bool kOffset>
  static void multiply_rows(const Group<Policy>& a, std::int64_t m) {
    for (int v = 0; v < kVectors; v += kVectorsAtOnce) {
      __m256i sums[kRows][kVectorsAtOnce];
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) sums[r][0] = sums[r][1] = _mm256_setzero_si256();
      Policy::template add_products<kRows>(a, m, a.weights + static_cast<std::size_t>(v) * kVector, sums);
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) finish_row<kOffset>(a, m + r, v, sums[r]);
    }
  }
};

// Weights of whole q, 32 bits for each output: [step][vector][output][bytes or words]. A `Policy` has also
//
//   multiply_add(sum, weights, inputs)   of the 32 bits of each output
template <class Policy>
struct WholeLevels : Avx2Levels<Policy> {
  using Base = Avx2Levels<Policy>;
  using Base::kStepBytes;
  using Base::kVector;
  using Base::kVectorsAtOnce;

  template <int kRows>
  [[gnu::always_inline]] static void add_products(const Group<Policy>& a, std::int64_t m, const std::uint8_t* weights,
                                                  __m256i (*sums)[kVectorsAtOnce]) {
    const std::uint8_t* x = a.x + m * a.row_bytes;
#pragma GCC unroll 2
    for (std::int64_t step = 0; step < a.quads * Policy::kElementBytes; ++step) {
      __m256i numbers[kVectorsAtOnce];
#pragma GCC unroll 2
      for (int v = 0; v < kVectorsAtOnce; ++v) numbers[v] = load(weights + static_cast<std::size_t>(v) * kVector);
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) {
        const __m256i inputs = load_inputs(x + r * a.row_bytes);
#pragma GCC unroll 2
        for (int v = 0; v < kVectorsAtOnce; ++v) sums[r][v] = Policy::multiply_add(sums[r][v], numbers[v], inputs);
      }
      x += sizeof(std::int32_t);
      weights += kStepBytes;
    }
  }
};

// Weights and inputs of two bytes (level 0). A segment's sum is at most 255 * 32639 * 128 < 2^30.
template <class Policy>
struct WordLevels : WholeLevels<Policy> {
  static constexpr int kElementBytes = 2;
  static constexpr std::size_t kEightBytes = 4 * Avx2Levels<Policy>::kStepBytes;  // of the weights of eight inputs
  static constexpr std::size_t kWeightBytes = kMaxSegment / 8 * kEightBytes;

  // Faster from two to nine rows on. All that are checked at once in speculation must round alike, and one row alone
  // would take up to two and a half times as long as with tables.
  static std::int64_t min_rows(const Shape& shape) { return shape.planes == 1 ? kNever : 9; }

  static std::int32_t store(F32x16 x, std::uint8_t* out, std::int64_t) {
    const __m256i words = rounded_words(x);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), words);
    const __m256i pairs = _mm256_madd_epi16(words, _mm256_set1_epi16(1));
    const __m128i quads = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    const __m128i eights = _mm_add_epi32(quads, _mm_unpackhi_epi64(quads, quads));
    return _mm_cvtsi128_si32(eights) + _mm_extract_epi32(eights, 1);
  }

  template <int kPlanes>
  [[gnu::always_inline]] static void make_eight(const std::uint8_t* at, std::size_t plane_bytes, std::uint8_t* out) {
    __m256i bytes[2 * kQuad];
    whole_numbers<kPlanes>(at, plane_bytes, bytes);
#pragma GCC unroll 4
    for (std::size_t pair = 0; pair < kQuad; ++pair) {
      store_pair(bytes + 2 * pair, out + pair * Avx2Levels<Policy>::kStepBytes);
    }
  }
};

}  // namespace
}  // namespace dualbinary
