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
  template <int kDigits>
  static constexpr bool kRowApart = false;
  static constexpr bool kEvenLevels = false;
  template <int kLines>
  static constexpr int kPlanesPerPass = 1;
  // Rows whose sums are kept in registers at a time, so that one index serves them all: 16 of the 32 registers, beside
  // four indices and two tables.
  template <int kDigits>
  static constexpr int kRowTile = 4 / kDigits;

  // Sums of one row: [digit][vector], eight outputs in each.
  template <int kDigits>
  using Sums = uint16x8_t[kDigits][kVectors];

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
      const auto widened = [&](int32x4_t to, int d) {
        const uint16x8_t words = sums[d][i / 2];
        const uint32x4_t from = vreinterpretq_u32_s32(to);
        return vreinterpretq_s32_u32(i % 2 == 0 ? vaddw_u16(from, vget_low_u16(words)) : vaddw_high_u16(from, words));
      };
      int32x4_t sum = vdupq_n_s32(0);
#pragma GCC unroll 2
      for (int d = kDigits - 1; d > 0; --d) sum = vshlq_n_s32(widened(sum, d), kDigitBits);
      sum = kDigits == 1 ? widened(start, 0) : widened(vaddq_s32(sum, start), 0);
      const float32x4_t total = vmulq_n_f32(vcvtq_f32_s32(sum), terms.step);
      float32x4_t result = vfmaq_f32(vld1q_f32(y + 4 * i), total, load_scales(a.scales, f16, i));
      if constexpr (kOffset) {
        const std::uint8_t* offset = a.scales + kBlockOutputs * (f16 ? sizeof(std::uint16_t) : sizeof(float));
        result = vfmaq_n_f32(result, load_scales(offset, f16, i), terms.sum);
      }
      vst1q_f32(y + 4 * i, result);
    }
  }

  template <int kDigits, int kLines, bool kOffset, int kRows>
  static void accumulate_rows(const TableView& a, std::int64_t m0) {
    constexpr int kSixteens = kLines * kLineInputs / kVectorInputs;
    constexpr std::size_t kTables = 4 * kTableEntries;  // of sixteen inputs
    constexpr std::size_t kDigitBytes = kSixteens * kTables;
    constexpr std::size_t kRowBytes = kDigits * kDigitBytes;
    const std::uint8_t* entries = a.integers + static_cast<std::size_t>(m0) * kRowBytes;
    Sums<kDigits> sums[kRows] = {};
#pragma GCC unroll 1
    for (std::size_t sixteen = 0; sixteen < kSixteens; ++sixteen) {
      const std::uint8_t* at = a.lines + sixteen * kVectors * kVector;  // a cache line
      fetch_ahead(at);
      uint8x16_t low[kVectors];
      uint8x16_t high[kVectors];
#pragma GCC unroll 4
      for (std::size_t v = 0; v < kVectors; ++v) {
        const uint8x16_t bits = vld1q_u8(at + v * kVector);
        low[v] = low_index(bits);
        high[v] = high_index(bits);
      }
#pragma GCC unroll 4
      for (std::size_t m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
        for (std::size_t d = 0; d < kDigits; ++d) {
          const std::uint8_t* tables = entries + m * kRowBytes + d * kDigitBytes + sixteen * kTables;
          const uint8x16x2_t first = vld1q_u8_x2(tables);
          const uint8x16x2_t second = vld1q_u8_x2(tables + kTables / 2);
#pragma GCC unroll 4
          for (std::size_t v = 0; v < kVectors; ++v) {
            sums[m][d][v] = add_looked_up(add_looked_up(sums[m][d][v], first, low[v]), second, high[v]);
          }
        }
      }
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
};

}  // namespace

constinit const MatMulKernel table8_n32_neon =
    table_kernel<Neon, 1>("table8_n32_neon", Isa::kNeon, contract::kLayoutNeon);
constinit const MatMulKernel table16_n32_neon =
    table_kernel<Neon, 2>("table16_n32_neon", Isa::kNeon, contract::kLayoutNeon);

}  // namespace dualbinary
