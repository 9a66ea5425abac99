// Table kernels for NEON. The packed form is that of neon_block.h.
//
// Four instructions, two lookups and two additions, add 32 entries: 128 plane bits. Making the two indices takes three
// more, shared by the rows of a tile.
#include "contract.h"
#include "kernels/inventory.h"
#include "kernels/neon_block.h"
#include "kernels/table-inl.h"

namespace dualbinary {
namespace {

struct Neon : NeonBlock {
  static constexpr bool kRowApart = false;
  static constexpr bool kEvenLevels = true;
  template <int kLines>
  static constexpr int kPlanesPerPass = 1;
  // Rows whose sums are kept in registers at a time, so that one index serves them all: 16 of the 32 registers, beside
  // four indices and two tables.
  template <int kDigits>
  static constexpr int kRowTile = 4 / kDigits;

  static constexpr std::size_t kCacheLine = kVectors * kVector;                    // sixteen inputs of all outputs
  static constexpr std::size_t kTables = kVectorInputs / kNibble * kTableEntries;  // entries of these, one digit

  // Sums of one row: [digit][vector], eight outputs in each.
  template <int kDigits>
  using Sums = uint16x8_t[kDigits][kVectors];

  // start + the sums of all digits of the outputs 4i to 4i+3, in 32 bits.
  template <int kDigits>
  [[gnu::always_inline]] static int32x4_t wide_sum(const Sums<kDigits>& sums, int i, int32x4_t start) {
    const auto widened = [&](int32x4_t to, int d) {
      const uint16x8_t words = sums[d][i / 2];
      const uint32x4_t from = vreinterpretq_u32_s32(to);
      return vreinterpretq_s32_u32(i % 2 == 0 ? vaddw_u16(from, vget_low_u16(words)) : vaddw_high_u16(from, words));
    };
    int32x4_t sum = vdupq_n_s32(0);
#pragma GCC unroll 2
    for (int d = kDigits - 1; d > 0; --d) sum = vshlq_n_s32(widened(sum, d), kDigitBits);
    return kDigits == 1 ? widened(start, 0) : widened(vaddq_s32(sum, start), 0);
  }

  // y += step * scale * (sums + start) (+ offset * sum), for the 32 outputs of one row. The same operations in the same
  // order as AVX2's.
  template <int kDigits, bool kOffset>
  [[gnu::always_inline]] static void finish_row(const TableView& a, std::int64_t m, const Sums<kDigits>& sums) {
    const bool f16 = a.scale_type == Element::kFloat16;
    const TableTerms& terms = a.terms[m];
    const int32x4_t start = vdupq_n_s32(terms.start);
    float* y = a.y + m * kBlockOutputs;
#pragma GCC unroll 8
    for (int i = 0; i < kBlockOutputs / 4; ++i) {
      const float32x4_t total = vmulq_n_f32(vcvtq_f32_s32(wide_sum<kDigits>(sums, i, start)), terms.step);
      float32x4_t result = vfmaq_f32(vld1q_f32(y + 4 * i), total, load_scales(a.scales, f16, i));
      if constexpr (kOffset) {
        const std::uint8_t* offset = a.scales + kBlockOutputs * (f16 ? sizeof(std::uint16_t) : sizeof(float));
        result = vfmaq_n_f32(result, load_scales(offset, f16, i), terms.sum);
      }
      vst1q_f32(y + 4 * i, result);
    }
  }

  // Sixteen inputs of all outputs, a cache line, for kRows rows whose entries for them start at `tables`.
  template <int kDigits, int kRows>
  [[gnu::always_inline]] static void add_sixteen(const std::uint8_t* line, const std::uint8_t* tables,
                                                 std::size_t digit_bytes, Sums<kDigits>* sums) {
    fetch_ahead(line);
    uint8x16_t low[kVectors];
    uint8x16_t high[kVectors];
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kVectors; ++v) {
      const uint8x16_t bits = vld1q_u8(line + v * kVector);
      low[v] = low_index(bits);
      high[v] = high_index(bits);
    }
#pragma GCC unroll 4
    for (std::size_t m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
      for (std::size_t d = 0; d < kDigits; ++d) {
        const std::uint8_t* of_digit = tables + (m * kDigits + d) * digit_bytes;
        const uint8x16x2_t first = vld1q_u8_x2(of_digit);
#pragma GCC unroll 4
        for (std::size_t v = 0; v < kVectors; ++v) sums[m][d][v] = add_looked_up(sums[m][d][v], first, low[v]);
        const uint8x16x2_t second = vld1q_u8_x2(of_digit + kTables / 2);
#pragma GCC unroll 4
        for (std::size_t v = 0; v < kVectors; ++v) sums[m][d][v] = add_looked_up(sums[m][d][v], second, high[v]);
      }
    }
  }

  template <int kDigits, int kLines, bool kOffset, int kRows>
  static void accumulate_rows(const TableView& a, std::int64_t m0) {
    constexpr std::size_t kSixteens = kLines * kLineInputs / kVectorInputs;
    constexpr std::size_t kDigitBytes = kSixteens * kTables;
    const std::uint8_t* entries = a.integers + static_cast<std::size_t>(m0) * kDigits * kDigitBytes;
    Sums<kDigits> sums[kRows] = {};
#pragma GCC unroll 1
    for (std::size_t sixteen = 0; sixteen < kSixteens; ++sixteen) {
      add_sixteen<kDigits, kRows>(a.lines + sixteen * kCacheLine, entries + sixteen * kTables, kDigitBytes, sums);
    }
    // Unrolled and inlined, or else the sums would live in memory and be stored there in every step.
#pragma GCC unroll 4
    for (int m = 0; m < kRows; ++m) finish_row<kDigits, kOffset>(a, m0 + m, sums[m]);
  }

  template <int kDigits, int kLines, int kPlanes, bool kOffset>
  static void accumulate(const TableView& a) {
    static_assert(kPlanes == 1);
    accumulate_in_tiles<Neon, kDigits, kLines, kOffset>(a);
  }

  template <int kDigits, int kLines, bool kPairs>
  static constexpr int even_planes() {
    return even_planes_in_words<kLines, kPairs>();
  }

  // y += weight * step of x * step * (sums + start) (+ offset * sum, - step * zero * sum), for the 32 outputs of one
  // row. As above, in AVX2's order.
  template <int kDigits>
  [[gnu::always_inline]] static void finish_even_row(const EvenView& a, std::int64_t m, int half, int nibbles,
                                                     const Sums<kDigits>& sums) {
    const bool f16 = a.scale_type == Element::kFloat16;
    const std::uint8_t* scales = steps_of(a, half);
    const TableTerms& terms = a.terms[m];
    const int32x4_t start = vdupq_n_s32(even_start<kDigits>(a, terms, half, nibbles));
    const float step = terms.step * a.weight;
    const float x_sum = sum_of_x(terms, half);
    float* y = a.y + m * kBlockOutputs;
#pragma GCC unroll 8
    for (int i = 0; i < kBlockOutputs / 4; ++i) {
      const float32x4_t total = vmulq_n_f32(vcvtq_f32_s32(wide_sum<kDigits>(sums, i, start)), step);
      const float32x4_t scale = load_scales(scales, f16, i);
      float32x4_t result = vfmaq_f32(vld1q_f32(y + 4 * i), total, scale);
      if (a.first && a.offset) result = vfmaq_n_f32(result, load_scales(scales + a.scale_bytes, f16, i), x_sum);
      if (a.first && a.zeros != nullptr) {
        const float32x4_t zero = load_zeros(a.zeros + half * kBlockOutputs, i);
        result = vfmsq_f32(result, vmulq_f32(scale, zero), vdupq_n_f32(x_sum));
      }
      vst1q_f32(y + 4 * i, result);
    }
  }

  // The sixteens kBegin to kEnd of each plane, the highest plane first: sums double on the way to the next.
  template <int kDigits, int kLines, int kBegin, int kEnd, int kRows>
  [[gnu::noinline]] static void accumulate_even_rows(const EvenView& a, std::int64_t m0, int half) {
    constexpr std::size_t kSixteens = kLines * kLineInputs / kVectorInputs;
    constexpr std::size_t kDigitBytes = kSixteens * kTables;
    const std::uint8_t* entries = a.integers + static_cast<std::size_t>(m0) * kDigits * kDigitBytes;
    Sums<kDigits> sums[kRows] = {};
#pragma GCC unroll 1
    for (int p = a.planes - 1; p >= 0; --p) {
      const std::uint8_t* lines = a.lines + static_cast<std::size_t>(p) * kSixteens * kCacheLine;
#pragma GCC unroll 4
      for (auto& row : sums) {
#pragma GCC unroll 2
        for (auto& digit : row) {
#pragma GCC unroll 4
          for (uint16x8_t& sum : digit) sum = vshlq_n_u16(sum, 1);
        }
      }
#pragma GCC unroll 1
      for (std::size_t sixteen = kBegin; sixteen < kEnd; ++sixteen) {
        add_sixteen<kDigits, kRows>(lines + sixteen * kCacheLine, entries + sixteen * kTables, kDigitBytes, sums);
      }
    }
#pragma GCC unroll 4
    for (int m = 0; m < kRows; ++m) {
      finish_even_row<kDigits>(a, m0 + m, half, (kEnd - kBegin) * kVectorInputs / kNibble, sums[m]);
    }
  }

  template <int kDigits, int kLines, bool kPairs>
  static void accumulate_even(const EvenView& a) {
    accumulate_even_in_tiles<Neon, kDigits, kLines, kPairs>(a);
  }
};

}  // namespace

constinit const MatMulKernel table8_n32_neon =
    table_kernel<Neon, 1>("table8_n32_neon", Isa::kNeon, contract::kLayoutNeon);
constinit const MatMulKernel table16_n32_neon =
    table_kernel<Neon, 2>("table16_n32_neon", Isa::kNeon, contract::kLayoutNeon);

}  // namespace dualbinary
