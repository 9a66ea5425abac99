// Table kernels for AVX-512 with VNNI and VBMI.
//
// The packed form is that of avx512_block.h: one vpermb looks up 16 outputs times 16 inputs, and one vpdpbusd adds the
// four bytes of each output to its 32-bit lane, so that there is no horizontal sum anywhere.
#include "simd/x86_avx512.h"

#include "contract.h"
#include "kernels/avx512_block.h"
#include "kernels/inventory.h"
#include "kernels/table-inl.h"

namespace dualbinary {
namespace {

struct Avx512 : Avx512Block {
  static constexpr bool kRowApart = true;
  static constexpr bool kEvenLevels = true;
  // While many rows pass by, all indices of a pass stay in 16 of the 32 registers: 8 lines of one vector, or 4 lines of
  // two vectors, which then share the tables.
  static constexpr int kMostPlanes = 4;
  template <int kLines>
  static constexpr int kPlanesPerPass = kLines <= 2 ? kMostPlanes : 2;
  template <int kLines, int kPlanes>
  static constexpr int kVectorsAtOnce = kLines * kPlanes <= 4 ? 2 : 1;

  // Sum of the entries from those of their digits.
  template <int kDigits>
  [[gnu::always_inline]] static __m512i total(const __m512i* digits) {
    __m512i sum = digits[kDigits - 1];
#pragma GCC unroll 2
    for (int d = kDigits - 2; d >= 0; --d) {
      sum = _mm512_add_epi32(_mm512_slli_epi32(sum, kDigitBits), digits[d]);
    }
    return sum;
  }

  // How the looked-up digits of a pass become results: a sum and scales for each plane of free levels,
  template <class Segment, int kDigits, int kLines, int kPlaneCount, bool kOffset>
  struct Free {
    using View = Segment;
    static constexpr int kPlanes = kPlaneCount;
    static constexpr int kSums = kPlanes;
    struct Scales {
      __m512 row[kPlanes + 1];
    };
    static constexpr int sum_of(int plane, int /*half*/) { return plane; }
    static __m512i weight(int /*plane*/) { return _mm512_set1_epi8(1); }
    [[gnu::always_inline]] static std::int32_t start(const View&, const TableTerms& terms, int /*sum*/) {
      return terms.start;
    }
    [[gnu::always_inline]] static Scales load(const View& a, int v) {
      Scales scales;
#pragma GCC unroll 5
      for (int c = 0; c < kPlanes + (kOffset ? 1 : 0); ++c) scales.row[c] = load_scales(a, a.scales, c, v);
      return scales;
    }
    // y += step * (sum over planes of scale * (sum of entries + start)) (+ offset * sum of x)
    [[gnu::always_inline]] static __m512 finish(const View&, const TableTerms& terms, const __m512i* totals,
                                                const Scales& scales, __m512 y) {
      __m512 weighted = _mm512_mul_ps(_mm512_cvtepi32_ps(totals[0]), scales.row[0]);
#pragma GCC unroll 3
      for (int p = 1; p < kPlanes; ++p) {
        weighted = _mm512_fmadd_ps(_mm512_cvtepi32_ps(totals[p]), scales.row[p], weighted);
      }
      y = _mm512_fmadd_ps(weighted, _mm512_set1_ps(terms.step), y);
      if constexpr (kOffset) y = _mm512_fmadd_ps(scales.row[kPlanes], _mm512_set1_ps(terms.sum), y);
      return y;
    }
  };

  // or sums of all planes of even ones: vpdpbusd multiplies the digits of plane p by 2^p on the way. Low and high
  // nibbles have one each: those of a pair of groups, and else two shorter chains of additions, which take four cycles
  // each.
  template <class Segment, int kDigits, int kLines, int kPlaneCount, bool kPairs>
  struct Even {
    using View = EvenPass<Segment>;
    static constexpr int kPlanes = kPlaneCount;
    static constexpr int kSums = kPairs || kDigits == 1 ? 2 : 1;
    static constexpr int kGroups = kPairs ? 2 : 1;
    static constexpr int kNibbles = kLines * kLineInputs / kNibble / kGroups;
    struct Scales {
      __m512 step[kGroups];
      __m512 of_sum[kGroups];  // what the sum of x is multiplied by; where the pass has such a term
    };
    static constexpr int sum_of(int /*plane*/, int half) { return kSums == 2 ? half : 0; }
    static __m512i weight(int plane) { return _mm512_set1_epi8(static_cast<char>(1 << plane)); }
    [[gnu::always_inline]] static std::int32_t start(const View& a, const TableTerms& terms, int sum) {
      return sum < kGroups ? even_start<kDigits>(a, terms, sum, kNibbles) : 0;
    }
    [[gnu::always_inline]] static bool has_sum(const View& a) { return a.first && (a.offset || a.zeros != nullptr); }
    [[gnu::always_inline]] static Scales load(const View& a, int v) {
      Scales scales;
#pragma GCC unroll 2
      for (int half = 0; half < kGroups; ++half) {
        scales.step[half] = load_scales(a, steps_of(a, half), 0, v);
        if (!has_sum(a)) continue;
        if (a.offset) {
          scales.of_sum[half] = load_scales(a, steps_of(a, half), 1, v);
        } else {
          const std::uint8_t* zeros = a.zeros + half * kBlockOutputs + v * kVectorOutputs;
          fetch_stream(zeros);
          const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(zeros)));
          scales.of_sum[half] = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(bytes), scales.step[half], _mm512_setzero_ps());
        }
      }
      return scales;
    }
    // y += step of x * weight of the pass * step * (sum of entries + start) (+ (offset, or -step * zero) * sum of x)
    [[gnu::always_inline]] static __m512 finish(const View& a, const TableTerms& terms, const __m512i* totals,
                                                const Scales& scales, __m512 y) {
      const __m512 step = _mm512_set1_ps(terms.step * a.weight);
#pragma GCC unroll 2
      for (int half = 0; half < kGroups; ++half) {
        const __m512i total = kPairs || kSums == 1 ? totals[half] : _mm512_add_epi32(totals[0], totals[1]);
        y = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(total), scales.step[half]), step, y);
        if (has_sum(a)) y = _mm512_fmadd_ps(scales.of_sum[half], _mm512_set1_ps(sum_of_x(terms, half)), y);
      }
      return y;
    }
  };

  template <int kDigits, int kLines, int kPlanes, bool kOffset, class View>
  [[gnu::always_inline]] static void accumulate(const View& a) {
    accumulate_pass<Free<View, kDigits, kLines, kPlanes, kOffset>, kDigits, kLines>(a);
  }

  // One row needs no registers for indices, and could take more: but each pass rounds, and a row's bits must not depend
  // on the rows beside it.
  template <int kDigits, int kLines, bool kPairs>
  static constexpr int even_planes() {
    return kPlanesPerPass<kLines>;
  }

  template <int kDigits, int kLines, bool kPairs, class Segment, int kPlanes = kPlanesPerPass<kLines>>
  [[gnu::always_inline]] static void accumulate_even(const EvenPass<Segment>& a) {
    if constexpr (kPlanes > 1) {
      if (a.planes < kPlanes) return accumulate_even<kDigits, kLines, kPairs, Segment, kPlanes - 1>(a);
    }
    accumulate_pass<Even<Segment, kDigits, kLines, kPlanes, kPairs>, kDigits, kLines>(a);
  }

  template <class Sums, int kDigits, int kLines>
  [[gnu::always_inline]] static void accumulate_pass(const typename Sums::View& a) {
    if constexpr (requires { a.results; }) {
      accumulate_row<Sums, kDigits, kLines>(a, a.results);
    } else {
      constexpr int kAtOnce = kVectorsAtOnce<kLines, Sums::kPlanes>;
      for (int v = 0; v < kBlockVectors; v += kAtOnce) accumulate_vectors<Sums, kDigits, kLines, kAtOnce>(a, v);
    }
  }

  // One row needs each index once, so that both vectors can share a table. Lines are read in the order in which they
  // are stored: going from plane to plane for each table loads fewer tables, and was 25 % slower out of cache.
  template <class Sums, int kDigits, int kLines>
  [[gnu::always_inline]] static void accumulate_row(const typename Sums::View& a, F32x16* results) {
    __m512i acc[kBlockVectors][Sums::kSums][kDigits];
#pragma GCC unroll 2
    for (int v = 0; v < kBlockVectors; ++v) begin<Sums, kDigits>(a, *a.terms, acc[v]);
#pragma GCC unroll 4
    for (int p = 0; p < Sums::kPlanes; ++p) {
#pragma GCC unroll 4
      for (int line = 0; line < kLines; ++line) {
#pragma GCC unroll 2
        for (int v = 0; v < kBlockVectors; ++v) {
          const std::uint8_t* at = line_at(a, p * kLines + line, v);
          fetch_stream(at);
          const __m512i bits = _mm512_loadu_si512(at);
          __m512i(*sums)[kDigits] = acc[v];
#pragma GCC unroll 2
          for (int d = 0; d < kDigits; ++d) {
            const std::uint8_t* tables = a.integers + static_cast<std::size_t>(2 * (d * kLines + line)) * kVector;
            __m512i& low = sums[Sums::sum_of(p, 0)][d];
            low = look_up(low, low_index(bits), _mm512_loadu_si512(tables), Sums::weight(p));
            __m512i& high = sums[Sums::sum_of(p, 1)][d];
            high = look_up(high, high_index(bits), _mm512_loadu_si512(tables + kVector), Sums::weight(p));
          }
        }
      }
    }
#pragma GCC unroll 2
    for (int v = 0; v < kBlockVectors; ++v) {
      __m512& y = results[v].v;
      y = finish_vector<Sums, kDigits>(a, *a.terms, acc[v], Sums::load(a, v), y);
    }
  }

  // Many rows, outputs of vectors v0 .. v0 + kVectors - 1.
  template <class Sums, int kDigits, int kLines, int kVectors>
  static void accumulate_vectors(const typename Sums::View& a, int v0) {
    constexpr int kPlanes = Sums::kPlanes;
    constexpr int kHalfLines = 2 * kLines;
    constexpr std::size_t kNext = (kPlanes * kLines + 1) * kBlockVectors * kVector;  // a segment with its scales, or so
    __m512i index[kVectors][kPlanes][kHalfLines];
    typename Sums::Scales scales[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 4
      for (int p = 0; p < kPlanes; ++p) {
#pragma GCC unroll 4
        for (int line = 0; line < kLines; ++line) {
          const std::uint8_t* at = line_at(a, p * kLines + line, v0 + v);
          fetch_blocks(at, kNext);
          const __m512i bits = _mm512_loadu_si512(at);
          index[v][p][2 * line] = low_index(bits);
          index[v][p][2 * line + 1] = high_index(bits);
        }
      }
      scales[v] = Sums::load(a, v0 + v);
    }
    const std::uint8_t* entries = a.integers;
    float* y = a.y + v0 * kVectorOutputs;
    for (std::int64_t m = 0; m < a.rows; ++m) {
      __m512i acc[kVectors][Sums::kSums][kDigits];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) begin<Sums, kDigits>(a, a.terms[m], acc[v]);
#pragma GCC unroll 8
      for (int t = 0; t < kHalfLines; ++t) {
#pragma GCC unroll 2
        for (int d = 0; d < kDigits; ++d) {
          const __m512i table = _mm512_loadu_si512(entries + static_cast<std::size_t>(d * kHalfLines + t) * kVector);
#pragma GCC unroll 2
          for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 4
            for (int p = 0; p < kPlanes; ++p) {
              __m512i& sum = acc[v][Sums::sum_of(p, t % 2)][d];
              sum = look_up(sum, index[v][p][t], table, Sums::weight(p));
            }
          }
        }
      }
      entries += kDigits * kHalfLines * static_cast<int>(kVector);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        float* at = y + v * kVectorOutputs;
        _mm512_storeu_ps(at, finish_vector<Sums, kDigits>(a, a.terms[m], acc[v], scales[v], _mm512_loadu_ps(at)));
      }
      y += kBlockOutputs;
    }
  }

  // Sums of a vector at the start of a segment: the lowest digits' takes the start value along.
  template <class Sums, int kDigits>
  [[gnu::always_inline]] static void begin(const typename Sums::View& a, const TableTerms& terms,
                                           __m512i (*acc)[kDigits]) {
#pragma GCC unroll 4
    for (int s = 0; s < Sums::kSums; ++s) {
      acc[s][0] = _mm512_set1_epi32(Sums::start(a, terms, s));
#pragma GCC unroll 2
      for (int d = 1; d < kDigits; ++d) acc[s][d] = _mm512_setzero_si512();
    }
  }

  // acc + weight * the digits that `index` selects from four tables.
  [[gnu::always_inline]] static __m512i look_up(__m512i acc, __m512i index, __m512i table, __m512i weight) {
    return _mm512_dpbusd_epi32(acc, _mm512_permutexvar_epi8(index, table), weight);
  }

  // Adds the pass to 16 results of one row.
  template <class Sums, int kDigits>
  [[gnu::always_inline]] static __m512 finish_vector(const typename Sums::View& a, const TableTerms& terms,
                                                     const __m512i (*acc)[kDigits], const typename Sums::Scales& scales,
                                                     __m512 y) {
    __m512i totals[Sums::kSums];
#pragma GCC unroll 4
    for (int s = 0; s < Sums::kSums; ++s) totals[s] = total<kDigits>(acc[s]);
    return Sums::finish(a, terms, totals, scales, y);
  }

  // Line `line` of the pass, for the 16 outputs of vector v.
  static const std::uint8_t* line_at(const TableView& a, int line, int v) {
    return a.lines + static_cast<std::size_t>(line * kBlockVectors + v) * kVector;
  }

  // Scales of row c of `scales`, for the 16 outputs of vector v.
  [[gnu::always_inline]] static __m512 load_scales(const TableView& a, const std::uint8_t* scales, int c, int v) {
    return Avx512Block::load_scales(scales, a.scale_type, c, v);
  }
};

}  // namespace

constinit const MatMulKernel table8_n32_avx512 =
    table_kernel<Avx512, 1>("table8_n32_avx512", Isa::kAvx512, contract::kLayoutAvx512);
constinit const MatMulKernel table16_n32_avx512 =
    table_kernel<Avx512, 2>("table16_n32_avx512", Isa::kAvx512, contract::kLayoutAvx512);

}  // namespace dualbinary
