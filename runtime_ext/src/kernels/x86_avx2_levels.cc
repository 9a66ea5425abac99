// Level kernel for AVX2: vpmaddubsw adds two products of whole weights to each of 16 words, and four of these, of at
// most 15 * 127 * 2 * 4 together, are widened by one vpmaddwd. So a byte has a half of q: with more than four planes
// the low and the high halves are multiplied one after the other, and the widening multiplies by 1 and by 16. 64
// weights take about 5 instructions for a row, where a table kernel takes 14 at P = 4.
#include "contract.h"
#include "kernels/avx2_block.h"
#include "kernels/inventory.h"
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

struct Avx2Levels {
  using Block = Avx2Block;
  static constexpr int kDigits = 1;
  static constexpr int kFewRows = 0;
  static constexpr int kTileRows = 6;  // and two vectors of outputs: 12 sums of 16 registers
  static constexpr int kVectorOutputs = 8;
  static constexpr int kVectors = Block::kBlockOutputs / kVectorOutputs;
  static constexpr int kVectorsAtOnce = 2;
  static constexpr std::size_t kVector = Block::kVector;
  static constexpr std::size_t kQuadBytes = kVectors * kVector;
  static constexpr std::size_t kHalfBytes = kMaxSegment / kQuad * kQuadBytes;  // of one half of all q
  static constexpr std::size_t kWeightBytes = 2 * kHalfBytes;

  // More than four planes take a row as long as eight do.
  static std::int64_t min_rows(const Shape& shape) {
    constexpr std::int64_t kRows[contract::kMaxPlanes + 1] = {kNever, kNever, kNever, 8, 4, 16, 8, 4, 4};
    return kRows[shape.planes];
  }

  static void round(F32x16 x, __m128i* bytes) {
    constexpr int kEvenQuartersFirst = 0xD8;  // packs work within halves
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)),
                                                   kEvenQuartersFirst);
    *bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  }

  // Weights: [half of q][quad][vector][output][4].
  template <int kPlanes>
  static void make_weights(const LevelView& a, std::int64_t lines, std::uint8_t* weights) {
    constexpr int kHighPlanes = kPlanes > kHalfPlanes ? kPlanes - kHalfPlanes : 0;
    const std::int64_t eights = lines * kLineInputs / 8;
    const std::size_t plane_bytes = static_cast<std::size_t>(eights) * kVector;
    const std::size_t next = kPlanes * plane_bytes + 2 * kVector;  // a segment with its scales, or so
    for (std::int64_t eight = 0; eight < eights; ++eight) {
      const std::uint8_t* at = a.lines + static_cast<std::size_t>(eight) * kVector;
      std::uint8_t* out = weights + static_cast<std::size_t>(2 * eight) * kQuadBytes;
      if (eight % 2 == 0) {
        for (int p = 0; p < kPlanes; ++p) fetch_blocks(at + static_cast<std::size_t>(p) * plane_bytes, next);
      }
      make_halves<kPlanes - kHighPlanes>(at, plane_bytes, out);
      if constexpr (kHighPlanes > 0) {
        make_halves<kHighPlanes>(at + kHalfPlanes * plane_bytes, plane_bytes, out + kHalfBytes);
      }
    }
  }

  // Two quads of one half of q, from at most four planes.
  template <int kPlanes>
  [[gnu::always_inline]] static void make_halves(const std::uint8_t* plane, std::size_t plane_bytes,
                                                 std::uint8_t* out) {
    __m256i numbers[kQuad];
#pragma GCC unroll 4
    for (int p = 0; p < kQuad; ++p) {
      numbers[p] = p < kPlanes ? load(plane + static_cast<std::size_t>(p) * plane_bytes) : _mm256_setzero_si256();
    }
    exchange<1>(numbers[0], numbers[1], 0x55);
    exchange<1>(numbers[2], numbers[3], 0x55);
    exchange<2>(numbers[0], numbers[2], 0x33);
    exchange<2>(numbers[1], numbers[3], 0x33);
    // Outputs in the order in which unpacking their bytes to 32 bits, within halves of a vector, puts them in line.
    const __m256i even_first =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
    const __m256i fours = _mm256_setr_epi32(0, 4, 2, 6, 1, 5, 3, 7);
#pragma GCC unroll 4
    for (__m256i& number : numbers) {
      number = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(number, even_first), fours);
    }
    store_quad(numbers, out);
#pragma GCC unroll 4
    for (__m256i& number : numbers) number = _mm256_srli_epi16(number, 4);
    store_quad(numbers, out + kQuadBytes);
  }

  // The low nibbles of four vectors side by side.
  static void store_quad(const __m256i* numbers, std::uint8_t* out) {
    const __m256i mask = _mm256_set1_epi8(15);
    __m256i bytes[kQuad];
#pragma GCC unroll 4
    for (int i = 0; i < kQuad; ++i) bytes[i] = _mm256_and_si256(numbers[i], mask);
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

  static __m256i load(const std::uint8_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }

  // Rows m to m + kRows - 1.
  template <int kRows, bool kOffset>
  static void multiply_rows(const Group<Avx2Levels>& a, std::int64_t m) {
    for (int v = 0; v < kVectors; v += kVectorsAtOnce) {
      __m256i sums[kRows][kVectorsAtOnce];
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) sums[r][0] = sums[r][1] = _mm256_setzero_si256();
      const std::uint8_t* weights = a.weights + static_cast<std::size_t>(v) * kVector;
      add_half<kRows>(a, m, weights, 1, sums);
      if (a.planes > kHalfPlanes) add_half<kRows>(a, m, weights + kHalfBytes, 1 << kHalfPlanes, sums);
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) {
        const LevelTerms& terms = a.terms[m + r];
#pragma GCC unroll 2
        for (int i = 0; i < kVectorsAtOnce; ++i) {
          const int n = (v + i) * kVectorOutputs;
          float* y = a.y + (m + r) * Block::kBlockOutputs + n;
          const __m256 total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[r][i]), _mm256_set1_ps(terms.step),
                                               _mm256_set1_ps(terms.shift[a.half]));
          __m256 result = _mm256_fmadd_ps(total, _mm256_load_ps(a.step + n), _mm256_loadu_ps(y));
          if constexpr (kOffset) {
            result = _mm256_fmadd_ps(_mm256_load_ps(a.offset + n), _mm256_set1_ps(terms.sum[a.half]), result);
          }
          _mm256_storeu_ps(y, result);
        }
      }
    }
  }

  // Adds `factor` times the products of one half of q.
  template <int kRows>
  [[gnu::always_inline]] static void add_half(const Group<Avx2Levels>& a, std::int64_t m, const std::uint8_t* weights,
                                              int factor, __m256i (*sums)[kVectorsAtOnce]) {
    const std::uint8_t* x = a.x + m * a.row_bytes;
    const __m256i factors = _mm256_set1_epi16(static_cast<short>(factor));
#pragma GCC unroll 1
    for (std::int64_t quad = 0; quad < a.quads; quad += kQuad) {
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) {
        __m256i words[kVectorsAtOnce];
#pragma GCC unroll 4
        for (int i = 0; i < kQuad; ++i) {
          std::int32_t four;
          std::memcpy(&four, x + r * a.row_bytes + i * kQuad, sizeof(four));
          const __m256i inputs = _mm256_set1_epi32(four);
#pragma GCC unroll 2
          for (int v = 0; v < kVectorsAtOnce; ++v) {
            const std::uint8_t* at =
                weights + static_cast<std::size_t>(i) * kQuadBytes + static_cast<std::size_t>(v) * kVector;
            const __m256i products = _mm256_maddubs_epi16(load(at), inputs);
            words[v] = i == 0 ? products : _mm256_add_epi16(words[v], products);
          }
        }
#pragma GCC unroll 2
        for (int v = 0; v < kVectorsAtOnce; ++v) {
          sums[r][v] = _mm256_add_epi32(sums[r][v], _mm256_madd_epi16(words[v], factors));
        }
      }
      x += kQuad * kQuad;
      weights += kQuad * kQuadBytes;
    }
  }
};

}  // namespace

constinit const MatMulKernel level8_n32_avx2 =
    level_kernel<Avx2Levels>("level8_n32_avx2", Isa::kAvx2, contract::kLayoutAvx2, &table8_n32_avx2);

}  // namespace dualbinary
