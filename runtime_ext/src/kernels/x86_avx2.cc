// Table kernels for AVX2. The packed form is that of avx2_block.h.
#include "contract.h"
#include "kernels/avx2_block.h"
#include "kernels/inventory.h"
#include "kernels/table-inl.h"

namespace dualbinary {
namespace {

struct Avx2 : Avx2Block {
  static constexpr bool kRowApart = false;
  static constexpr bool kEvenLevels = true;
  template <int kLines>
  static constexpr int kPlanesPerPass = 1;
  // Rows whose sums are kept in registers at a time, so that one index serves them all: 4 rows of
  // one digit take 8 of the 16 registers. One row of three takes 6; two rows ran slower.
  template <int kDigits>
  static constexpr int kRowTile = kDigits == 1 ? 4 : 2;

  // Sums of all digits of the outputs 8i to 8i+7, in 32 bits.
  template <int kDigits>
  static __m256i wide_sum(const ByteSums* sums, int i) {
    const auto words = [i](const ByteSums& s) { return i < 2 ? s.low_sums() : s.high_sums(); };
    __m256i sum = widen(words(sums[kDigits - 1]), i % 2);
#pragma GCC unroll 2
    for (int d = kDigits - 2; d >= 0; --d) {
      sum = _mm256_add_epi32(_mm256_slli_epi32(sum, kDigitBits), widen(words(sums[d]), i % 2));
    }
    return sum;
  }

  // y += step * scale * (sums + start) (+ offset * sum), for the 32 outputs of one row.
  template <int kDigits, bool kOffset>
  static void finish_row(const TableView& a, std::int64_t m, const ByteSums* sums) {
    const bool f16 = a.scale_type == Element::kFloat16;
    const TableTerms& terms = a.terms[m];
    const __m256i start = _mm256_set1_epi32(terms.start);
    const __m256 step = _mm256_set1_ps(terms.step);
    float* y = a.y + m * kBlockOutputs;
#pragma GCC unroll 4
    for (int i = 0; i < kBlockOutputs / 8; ++i) {
      const __m256i sum = _mm256_add_epi32(wide_sum<kDigits>(sums, i), start);
      const __m256 total = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), step);
      __m256 result = _mm256_fmadd_ps(total, load_scales(a.scales, f16, i), _mm256_loadu_ps(y + 8 * i));
      if constexpr (kOffset) {
        const std::uint8_t* offset = a.scales + kBlockOutputs * (f16 ? sizeof(std::uint16_t) : sizeof(float));
        result = _mm256_fmadd_ps(load_scales(offset, f16, i), _mm256_set1_ps(terms.sum), result);
      }
      _mm256_storeu_ps(y + 8 * i, result);
    }
  }

  // One cache line, which is 16 inputs of all outputs, for kRows rows whose entries start at `entries`.
  template <int kDigits, int kRows>
  static void accumulate_line(const std::uint8_t* line, const std::uint8_t* entries, std::size_t digit_bytes,
                              ByteSums (*sums)[kDigits]) {
#pragma GCC unroll 2
    for (std::size_t eight = 0; eight < 2; ++eight) {
      const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(line + eight * kVector));
      const __m256i low = low_index(bits);
      const __m256i high = high_index(bits);
#pragma GCC unroll 4
      for (std::size_t m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
        for (std::size_t d = 0; d < kDigits; ++d) {
          const std::uint8_t* table = entries + (m * kDigits + d) * digit_bytes + eight * 2 * kTableEntries;
          sums[m][d].add(_mm256_shuffle_epi8(load_table(table), low),
                         _mm256_shuffle_epi8(load_table(table + kTableEntries), high));
        }
      }
    }
  }

  template <int kDigits, int kLines, bool kOffset, int kRows>
  static void accumulate_rows(const TableView& a, std::int64_t m0) {
    constexpr std::size_t kCacheLine = 2 * kVector;
    constexpr std::size_t kLineEntries = 4 * kTableEntries;  // of 16 inputs, one digit
    constexpr std::size_t kCacheLines = 2 * kLines;
    constexpr std::size_t kDigitBytes = kCacheLines * kLineEntries;
    const std::uint8_t* entries = a.integers + static_cast<std::size_t>(m0) * kDigits * kDigitBytes;
    ByteSums sums[kRows][kDigits];
    // The factors were measured: more for one row, or less for many, costs up to a fifth (GCC 12, Zen 5).
    if constexpr (kRows == 1) {
#pragma GCC unroll 2
      for (std::size_t i = 0; i < kCacheLines; ++i) {
        fetch_stream(a.lines + i * kCacheLine);
        accumulate_line<kDigits, kRows>(a.lines + i * kCacheLine, entries + i * kLineEntries, kDigitBytes, sums);
      }
    } else {
#pragma GCC unroll 4
      for (std::size_t i = 0; i < kCacheLines; ++i) {
        if (m0 == 0) fetch_blocks(a.lines + i * kCacheLine, kCacheLines * kCacheLine);
        accumulate_line<kDigits, kRows>(a.lines + i * kCacheLine, entries + i * kLineEntries, kDigitBytes, sums);
      }
    }
#pragma GCC unroll 4
    for (int m = 0; m < kRows; ++m) finish_row<kDigits, kOffset>(a, m0 + m, sums[m]);
  }

  template <int kDigits, int kLines, int kPlanes, bool kOffset>
  static void accumulate(const TableView& a) {
    static_assert(kPlanes == 1);
    accumulate_in_tiles<Avx2, kDigits, kLines, kOffset>(a);
  }

  template <int kDigits, int kLines, bool kPairs>
  static constexpr int even_planes() {
    return even_planes_in_words<kLines, kPairs>();
  }

  // y += weight * step of x * step * (sums + start) (+ offset * sum, - step * zero * sum), for the 32 outputs of one
  // row.
  template <int kDigits>
  static void finish_even_row(const EvenView& a, std::int64_t m, int half, int nibbles, const ByteSums* sums) {
    const bool f16 = a.scale_type == Element::kFloat16;
    const std::uint8_t* scales = steps_of(a, half);
    const TableTerms& terms = a.terms[m];
    const __m256i start = _mm256_set1_epi32(even_start<kDigits>(a, terms, half, nibbles));
    const __m256 step = _mm256_set1_ps(terms.step * a.weight);
    const __m256 x_sum = _mm256_set1_ps(sum_of_x(terms, half));
    float* y = a.y + m * kBlockOutputs;
#pragma GCC unroll 4
    for (int i = 0; i < kBlockOutputs / 8; ++i) {
      const __m256i sum = _mm256_add_epi32(wide_sum<kDigits>(sums, i), start);
      const __m256 total = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), step);
      const __m256 scale = load_scales(scales, f16, i);
      __m256 result = _mm256_fmadd_ps(total, scale, _mm256_loadu_ps(y + 8 * i));
      if (a.first && a.offset) result = _mm256_fmadd_ps(load_scales(scales + a.scale_bytes, f16, i), x_sum, result);
      if (a.first && a.zeros != nullptr) {
        const __m256 zero = bytes_to_float(a.zeros + half * kBlockOutputs + 8 * i);
        result = _mm256_fnmadd_ps(_mm256_mul_ps(scale, zero), x_sum, result);
      }
      _mm256_storeu_ps(y + 8 * i, result);
    }
  }

  // The cache lines kBegin to kEnd of each plane, the highest plane first: sums double on the way to the next.
  template <int kDigits, int kLines, int kBegin, int kEnd, int kRows>
  static void accumulate_even_rows(const EvenView& a, std::int64_t m0, int half) {
    constexpr std::size_t kCacheLine = 2 * kVector;
    constexpr std::size_t kLineEntries = 4 * kTableEntries;  // of 16 inputs, one digit
    constexpr std::size_t kCacheLines = 2 * kLines;
    constexpr std::size_t kDigitBytes = kCacheLines * kLineEntries;
    const std::uint8_t* entries = a.integers + static_cast<std::size_t>(m0) * kDigits * kDigitBytes;
    ByteSums sums[kRows][kDigits];
#pragma GCC unroll 1
    for (int p = a.planes - 1; p >= 0; --p) {
      const std::uint8_t* lines = a.lines + static_cast<std::size_t>(p) * kCacheLines * kCacheLine;
#pragma GCC unroll 4
      for (auto& row : sums) {
#pragma GCC unroll 2
        for (ByteSums& sum : row) sum.twice();
      }
#pragma GCC unroll 2
      for (std::size_t i = kBegin; i < kEnd; ++i) {
        if (kRows == 1) {
          fetch_stream(lines + i * kCacheLine);
        } else if (m0 == 0) {
          fetch_blocks(lines + i * kCacheLine, kCacheLines * kCacheLine);
        }
        accumulate_line<kDigits, kRows>(lines + i * kCacheLine, entries + i * kLineEntries, kDigitBytes, sums);
      }
    }
    constexpr int kNibbles = (kEnd - kBegin) * 4;
#pragma GCC unroll 4
    for (int m = 0; m < kRows; ++m) finish_even_row<kDigits>(a, m0 + m, half, kNibbles, sums[m]);
  }

  template <int kDigits, int kLines, bool kPairs>
  static void accumulate_even(const EvenView& a) {
    accumulate_even_in_tiles<Avx2, kDigits, kLines, kPairs>(a);
  }
};

}  // namespace

constinit const MatMulKernel table8_n32_avx2 =
    table_kernel<Avx2, 1>("table8_n32_avx2", Isa::kAvx2, contract::kLayoutAvx2);
constinit const MatMulKernel table16_n32_avx2 =
    table_kernel<Avx2, 2>("table16_n32_avx2", Isa::kAvx2, contract::kLayoutAvx2);

}  // namespace dualbinary
