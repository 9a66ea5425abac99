// Level kernels for AVX-512 with VNNI: vpdpbusd adds four products of whole weights to each of 16 outputs, where a
// table kernel's lookup and addition add four bits of one plane. The bytes take 3.5 instructions for 64 weights at P =
// 4 and 6 at P = 8.
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

template <int kBytes>
struct Avx512Levels {
  using Block = Avx512Block;
  static constexpr int kElementBytes = 1;
  static constexpr int kDigits = kBytes;
  static constexpr int kTileRows = 8 / kDigits;  // times digits and two vectors of outputs: 16 sums of 32 registers
  static constexpr int kFewRows = kDigits == 2 ? 3 : 0;  // as many sums leave room for weights and results
  static constexpr int kVectors = Block::kBlockVectors;
  static constexpr std::size_t kVector = Block::kVector;
  static constexpr std::size_t kQuadBytes = kVectors * kVector;
  static constexpr std::size_t kWeightBytes = kMaxSegment / kQuad * kQuadBytes;

  // A row takes the same time for any P, and more beside small groups, whose sums are multiplied more often. Two digits
  // serve every call or those of more rows than are checked at once in speculation, so that all of those round alike.
  static std::int64_t min_rows(const Shape& shape) {
    const bool pairs = shape.halves == 2;
    if (kDigits == 2) return shape.planes <= 2 || pairs ? kNever : shape.planes == 3 ? 9 : 1;
    if (shape.planes <= 2 || (shape.planes == 3 && pairs)) return kNever;
    if (shape.planes == 3) return 16;
    if (shape.planes == 4 && shape.segment_size == kLineInputs) return pairs ? 32 : 8;
    return 4;
  }

  // As the four bytes of an output in make_weights() come from its four nibbles, they belong to inputs four apart.
  static std::int32_t store(F32x16 x, std::uint8_t* out, std::int64_t stride) {
    const __m512i numbers = _mm512_cvtps_epi32(x.v);
    std::int32_t sum = store_digit(numbers, out);
    if constexpr (kDigits == 2) {
      // The low byte is signed: its 128 and more are less than the next 256.
      const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(numbers, _mm512_set1_epi32(kDigitUnit / 2)), 8);
      sum += kDigitUnit * store_digit(high, out + stride);
    }
    return sum;
  }

  static std::int32_t store_digit(__m512i numbers, std::uint8_t* out) {
    const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m128i bytes = _mm_shuffle_epi8(_mm512_cvtepi32_epi8(numbers), order);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), bytes);
    return sum_of_bytes(bytes);
  }

  // The weights of one vector of outputs and one line: of the quads of its first sixteen inputs, then of the others.
  template <int kPlanes>
  [[gnu::always_inline]] static void line_weights(const std::uint8_t* at, std::size_t plane_bytes, __m512i* weights) {
    constexpr int kHighPlanes = kPlanes > kHalfPlanes ? kPlanes - kHalfPlanes : 0;
    __m512i low[kQuad];
    __m512i high[kQuad];
    transpose_bits<kPlanes - kHighPlanes>(at, plane_bytes, low);
    if constexpr (kHighPlanes > 0) transpose_bits<kHighPlanes>(at + kHalfPlanes * plane_bytes, plane_bytes, high);
#pragma GCC unroll 4
    for (int i = 0; i < kQuad; ++i) {
      // The low nibbles of a byte are of the first sixteen inputs, the high ones of the others.
      const __m512i zero = _mm512_setzero_si512();
      weights[i] = select(15, low[i], kHighPlanes > 0 ? _mm512_slli_epi16(high[i], 4) : zero);
      weights[kQuad + i] = select(15, _mm512_srli_epi16(low[i], 4), kHighPlanes > 0 ? high[i] : zero);
    }
  }

  // Line `line` of plane 0, for the outputs of vector v.
  static const std::uint8_t* line_at(const LevelView& a, std::int64_t line, int v) {
    return a.lines + static_cast<std::size_t>(line * kVectors + v) * kVector;
  }

  // Weights: [quad][vector][output][4].
  template <int kPlanes>
  static void make_weights(const LevelView& a, std::int64_t lines, std::uint8_t* weights) {
    const std::size_t plane_bytes = static_cast<std::size_t>(lines) * kQuadBytes;
    const std::size_t next = (kPlanes * plane_bytes) + kVector;  // a segment with its scales, or so
    for (std::int64_t line = 0; line < lines; ++line) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        const std::uint8_t* at = line_at(a, line, v);
        for (int p = 0; p < kPlanes; ++p) fetch_blocks(at + static_cast<std::size_t>(p) * plane_bytes, next);
        __m512i quads[2 * kQuad];
        line_weights<kPlanes>(at, plane_bytes, quads);
        std::uint8_t* out = weights + static_cast<std::size_t>(line * (kLineInputs / kQuad) * kVectors + v) * kVector;
#pragma GCC unroll 8
        for (int i = 0; i < 2 * kQuad; ++i)
          _mm512_store_si512(out + static_cast<std::size_t>(i) * kQuadBytes, quads[i]);
      }
    }
  }

  // sum + the products of one quad of weights with four inputs, as bytes at `x`.
  [[gnu::always_inline]] static __m512i add_quad(__m512i sum, __m512i weights, const std::uint8_t* x) {
    std::int32_t four;
    std::memcpy(&four, x, sizeof(four));
    return _mm512_dpbusd_epi32(sum, weights, _mm512_set1_epi32(four));
  }

  // y + step * (step of x * sum + shift) + offset * sum of x, for the outputs of a vector.
  template <bool kOffset>
  [[gnu::always_inline]] static __m512 finish(const LevelTerms& terms, std::int64_t half, const __m512i* sums,
                                              __m512 step, __m512 offset, __m512 y) {
    __m512i sum = sums[0];
    if constexpr (kDigits == 2) sum = _mm512_add_epi32(sum, _mm512_slli_epi32(sums[1], 8));
    const __m512 total =
        _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(terms.step), _mm512_set1_ps(terms.shift[half]));
    y = _mm512_fmadd_ps(total, step, y);
    if constexpr (kOffset) y = _mm512_fmadd_ps(offset, _mm512_set1_ps(terms.sum[half]), y);
    return y;
  }

  // Rows m to m + kRows - 1.
  template <int kRows, bool kOffset>
  static void multiply_rows(const Group<Avx512Levels>& a, std::int64_t m) {
    const std::uint8_t* weights = a.weights;
    const std::uint8_t* x = a.x + m * a.row_bytes;
    __m512i sums[kRows][kVectors][kDigits];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int d = 0; d < kDigits; ++d) sums[r][0][d] = sums[r][1][d] = _mm512_setzero_si512();
    }
#pragma GCC unroll 1
    for (std::int64_t quad = 0; quad < a.quads; quad += kQuad) {
#pragma GCC unroll 4
      for (int i = 0; i < kQuad; ++i) {
        const __m512i first = _mm512_load_si512(weights);
        const __m512i second = _mm512_load_si512(weights + kVector);
        weights += kQuadBytes;
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
          for (int d = 0; d < kDigits; ++d) {
            const std::uint8_t* at = x + r * a.row_bytes + d * a.digit_bytes + i * kQuad;
            sums[r][0][d] = add_quad(sums[r][0][d], first, at);
            sums[r][1][d] = add_quad(sums[r][1][d], second, at);
          }
        }
      }
      x += kQuad * kQuad;
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        const int n = v * Block::kVectorOutputs;
        float* y = a.y + (m + r) * Block::kBlockOutputs + n;
        const __m512 offset = kOffset ? _mm512_load_ps(a.offset + n) : _mm512_setzero_ps();
        _mm512_storeu_ps(y, finish<kOffset>(a.terms[m + r], a.half, sums[r][v], _mm512_load_ps(a.step + n), offset,
                                            _mm512_loadu_ps(y)));
      }
    }
  }

  // All rows, kRows of them. The sums of one row or two would wait for themselves: there are two of each.
  template <int kPlanes, int kRows, bool kOffset>
  [[gnu::always_inline]] static void add_rows(const Shape& shape, const LevelView& view, F32x16* y) {
    constexpr int kParts = kRows <= 2 ? 2 : 1;
    const std::int64_t lines = shape.segment_size / kLineInputs;
    const std::size_t plane_bytes = static_cast<std::size_t>(lines) * kQuadBytes;
    const std::size_t next = (kPlanes * plane_bytes) + kVector;  // a segment with its scales, or so
    const std::int64_t row_bytes = shape.segment_size * kDigits;
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      __m512i sums[kRows][kParts][kDigits];
#pragma GCC unroll 8
      for (int i = 0; i < kRows * kParts * kDigits; ++i) (&sums[0][0][0])[i] = _mm512_setzero_si512();
#pragma GCC unroll 1
      for (std::int64_t line = 0; line < lines; ++line) {
        const std::uint8_t* x = view.integers + line * kLineInputs;
        const std::uint8_t* at = line_at(view, line, v);
        for (int p = 0; p < kPlanes; ++p) fetch_blocks(at + static_cast<std::size_t>(p) * plane_bytes, next);
        __m512i quads[2 * kQuad];
        line_weights<kPlanes>(at, plane_bytes, quads);
#pragma GCC unroll 8
        for (int i = 0; i < 2 * kQuad; ++i) {
#pragma GCC unroll 4
          for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
            for (int d = 0; d < kDigits; ++d) {
              __m512i& sum = sums[r][i % kParts][d];
              sum = add_quad(sum, quads[i], x + r * row_bytes + d * shape.segment_size + i * kQuad);
            }
          }
        }
      }
      const __m512 step = Block::load_scales(view.scales, view.scale_type, 0, v);
      __m512 offset = _mm512_setzero_ps();
      if (kOffset) offset = offset_of(view, step, v);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        if constexpr (kParts == 2) {
#pragma GCC unroll 2
          for (int d = 0; d < kDigits; ++d) sums[r][0][d] = _mm512_add_epi32(sums[r][0][d], sums[r][1][d]);
        }
        F32x16& out = y[r * kVectors + v];
        out.v = finish<kOffset>(view.terms[r], 0, sums[r][0], step, offset, out.v);
      }
    }
  }

  // Stored, or made of the zero points of the groups.
  [[gnu::always_inline]] static __m512 offset_of(const LevelView& view, __m512 step, int v) {
    if (view.zeros == nullptr) return Block::load_scales(view.scales, view.scale_type, 1, v);
    const void* at = view.zeros + static_cast<std::size_t>(v) * Block::kVectorOutputs;
    const __m512i zeros = _mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(at)));
    return _mm512_mul_ps(_mm512_sub_ps(_mm512_setzero_ps(), step), _mm512_cvtepi32_ps(zeros));
  }
};

}  // namespace

constinit const MatMulKernel level8_n32_avx512 =
    level_kernel<Avx512Levels<1>>("level8_n32_avx512", Isa::kAvx512, contract::kLayoutAvx512, &table8_n32_avx512);
constinit const MatMulKernel level16_n32_avx512 =
    level_kernel<Avx512Levels<2>>("level16_n32_avx512", Isa::kAvx512, contract::kLayoutAvx512, &table16_n32_avx512);

}  // namespace dualbinary
