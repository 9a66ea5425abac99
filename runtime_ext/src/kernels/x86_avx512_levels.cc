// Level kernel for AVX-512 with VNNI: vpdpbusd adds four products of whole weights to each of 16 outputs, where a table
// kernel's lookup and addition add four bits of one plane. The bytes take 3.5 instructions for 64 weights at P = 4 and
// 6 at P = 8.
#include "contract.h"
#include "kernels/avx512_block.h"
#include "kernels/inventory.h"
#include "kernels/x86_levels-inl.h"
#include "simd/x86_avx512.h"

namespace dualbinary {
namespace {

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

struct Avx512Levels {
  using Block = Avx512Block;
  static constexpr int kTileRows = 8;  // and two vectors of outputs: 16 sums of 32 registers
  static constexpr int kVectors = Block::kBlockVectors;
  static constexpr std::size_t kVector = Block::kVector;
  static constexpr std::size_t kQuadBytes = kVectors * kVector;
  static constexpr std::size_t kWeightBytes = kMaxSegment / kQuad * kQuadBytes;

  // A row takes the same time for any P, and more beside small groups, whose sums are multiplied more often.
  static std::int64_t min_rows(const Shape& shape) {
    const bool pairs = shape.halves == 2;
    if (shape.planes <= 2 || (shape.planes == 3 && pairs)) return kNever;
    if (shape.planes == 3) return 16;
    if (shape.planes == 4 && shape.segment_size == kLineInputs) return pairs ? 32 : 8;
    return 4;
  }

  // As the four bytes of an output in make_weights() come from its four nibbles, they belong to inputs four apart.
  static __m128i round(F32x16 x) {
    const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm_shuffle_epi8(_mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x.v)), order);
  }

  // Weights: [quad][vector][output][4].
  template <int kPlanes>
  static void make_weights(const LevelView& a, std::int64_t lines, std::uint8_t* weights) {
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
        std::uint8_t* out = weights + static_cast<std::size_t>(line * (kLineInputs / kQuad) * kVectors + v) * kVector;
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

  // Rows m to m + kRows - 1.
  template <int kRows, bool kOffset>
  static void multiply_rows(const Group<Avx512Levels>& a, std::int64_t m) {
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
      float* y = a.y + (m + r) * Block::kBlockOutputs;
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        const int n = v * Block::kVectorOutputs;
        const __m512 total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r][v]), _mm512_set1_ps(terms.step),
                                             _mm512_set1_ps(terms.shift[a.half]));
        __m512 result = _mm512_fmadd_ps(total, _mm512_load_ps(a.step + n), _mm512_loadu_ps(y + n));
        if constexpr (kOffset) {
          result = _mm512_fmadd_ps(_mm512_load_ps(a.offset + n), _mm512_set1_ps(terms.sum[a.half]), result);
        }
        _mm512_storeu_ps(y + n, result);
      }
    }
  }
};

}  // namespace

constinit const MatMulKernel level8_n32_avx512 =
    level_kernel<Avx512Levels>("level8_n32_avx512", Isa::kAvx512, contract::kLayoutAvx512, &table8_n32_avx512);

}  // namespace dualbinary
