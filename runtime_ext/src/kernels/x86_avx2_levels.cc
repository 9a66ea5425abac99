// Level kernels for AVX2.
//
// Inputs of one byte (level 4): vpmaddubsw adds two products of whole weights to each of 16 words, and four of these,
// of at most 15 * 127 * 2 * 4 together, are widened by one vpmaddwd. So a byte has a half of q: with more than four
// planes the low and the high halves are multiplied one after the other, and the widening multiplies by 1 and by 16. 64
// weights take about 5 instructions for a row, where a table kernel takes 14 at P = 4.
//
// Inputs of two bytes (level 0) are words, as are weights, and vpmaddwd adds two products to each of 8 outputs: 8
// instructions for 64 weights of any P, where two digits, each as above, would take 10, and 20 with more than four
// planes.
#include "contract.h"
#include "kernels/avx2_levels-inl.h"
#include "kernels/inventory.h"

namespace dualbinary {
namespace {

struct Avx2Bytes : Avx2Levels<Avx2Bytes> {
  static constexpr int kElementBytes = 1;
  static constexpr std::size_t kEightBytes = 2 * kStepBytes;                   // of the weights of eight inputs
  static constexpr std::size_t kHalfBytes = kMaxSegment / kQuad * kStepBytes;  // of one half of all q
  static constexpr std::size_t kWeightBytes = 2 * kHalfBytes;

  // More than four planes take a row as long as eight do.
  static std::int64_t min_rows(const Shape& shape) {
    constexpr std::int64_t kRows[contract::kMaxPlanes + 1] = {kNever, kNever, kNever, 8, 4, 16, 8, 4, 4};
    return kRows[shape.planes];
  }

  static std::int32_t store(F32x16 x, std::uint8_t* out, std::int64_t) { return store_bytes(x, out); }

  // Weights: [half of q][quad][vector][output][4].
  template <int kPlanes>
  [[gnu::always_inline]] static void make_eight(const std::uint8_t* at, std::size_t plane_bytes, std::uint8_t* out) {
    constexpr int kHighPlanes = kPlanes > kHalfPlanes ? kPlanes - kHalfPlanes : 0;
    make_halves<kPlanes - kHighPlanes>(at, plane_bytes, out);
    if constexpr (kHighPlanes > 0) {
      make_halves<kHighPlanes>(at + kHalfPlanes * plane_bytes, plane_bytes, out + kHalfBytes);
    }
  }

  // Two quads of one half of q, from at most four planes.
  template <int kPlanes>
  [[gnu::always_inline]] static void make_halves(const std::uint8_t* plane, std::size_t plane_bytes,
                                                 std::uint8_t* out) {
    const __m256i mask = _mm256_set1_epi8(15);
    __m256i numbers[kQuad];
    __m256i bytes[kQuad];
    transpose<kPlanes>(plane, plane_bytes, numbers);
#pragma GCC unroll 4
    for (int i = 0; i < kQuad; ++i) bytes[i] = _mm256_and_si256(numbers[i], mask);
    store_quad(bytes, out);
#pragma GCC unroll 4
    for (int i = 0; i < kQuad; ++i) bytes[i] = _mm256_and_si256(_mm256_srli_epi16(numbers[i], 4), mask);
    store_quad(bytes, out + kStepBytes);
  }

  template <int kRows>
  [[gnu::always_inline]] static void add_products(const Group<Avx2Bytes>& a, std::int64_t m,
                                                  const std::uint8_t* weights, __m256i (*sums)[kVectorsAtOnce]) {
    add_half<kRows>(a, m, weights, 1, sums);
    if (a.planes > kHalfPlanes) add_half<kRows>(a, m, weights + kHalfBytes, 1 << kHalfPlanes, sums);
  }

  // Adds `factor` times the products of one half of q.
  template <int kRows>
  [[gnu::always_inline]] static void add_half(const Group<Avx2Bytes>& a, std::int64_t m, const std::uint8_t* weights,
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
          const __m256i inputs = load_inputs(x + r * a.row_bytes + i * kQuad);
#pragma GCC unroll 2
          for (int v = 0; v < kVectorsAtOnce; ++v) {
            const std::uint8_t* at =
                weights + static_cast<std::size_t>(i) * kStepBytes + static_cast<std::size_t>(v) * kVector;
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
      weights += kQuad * kStepBytes;
    }
  }
};

struct Avx2Words : WordLevels<Avx2Words> {
  [[gnu::always_inline]] static __m256i multiply_add(__m256i sum, __m256i weights, __m256i inputs) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(weights, inputs));
  }
};

}  // namespace

constinit const MatMulKernel level8_n32_avx2 =
    level_kernel<Avx2Bytes>("level8_n32_avx2", Isa::kAvx2, contract::kLayoutAvx2, &table8_n32_avx2);
constinit const MatMulKernel level16_n32_avx2 =
    level_kernel<Avx2Words>("level16_n32_avx2", Isa::kAvx2, contract::kLayoutAvx2, &table16_n32_avx2);

}  // namespace dualbinary
