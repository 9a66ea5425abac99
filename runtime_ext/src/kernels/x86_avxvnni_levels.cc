// Level kernels for AVX2 with VNNI: one instruction multiplies 32 bits of each output, of any P, and adds them to its
// sum. Integers, and so results, are those of the AVX2 kernels to the bit. Sums of bytes are at most 255 * 127 * 128 <
// 2^22.
#include "contract.h"
#include "kernels/avx2_levels-inl.h"
#include "kernels/inventory.h"

namespace dualbinary {
namespace {

struct VnniBytes : WholeLevels<VnniBytes> {
  static constexpr int kElementBytes = 1;
  static constexpr std::size_t kEightBytes = 2 * kStepBytes;  // of the weights of eight inputs
  static constexpr std::size_t kWeightBytes = kMaxSegment / 8 * kEightBytes;

  static std::int64_t min_rows(const Shape& shape) {
    constexpr std::int64_t kRows[contract::kMaxPlanes + 1] = {kNever, kNever, 16, 6, 4, 4, 4, 4, 4};
    return kRows[shape.planes];
  }

  static std::int32_t store(F32x16 x, std::uint8_t* out, std::int64_t) { return store_bytes(x, out); }

  template <int kPlanes>
  [[gnu::always_inline]] static void make_eight(const std::uint8_t* at, std::size_t plane_bytes, std::uint8_t* out) {
    __m256i bytes[2 * kQuad];
    whole_numbers<kPlanes>(at, plane_bytes, bytes);
    store_quad(bytes, out);
    store_quad(bytes + kQuad, out + kStepBytes);
  }

  [[gnu::always_inline]] static __m256i multiply_add(__m256i sum, __m256i weights, __m256i inputs) {
    return _mm256_dpbusd_avx_epi32(sum, weights, inputs);
  }
};

struct VnniWords : WordLevels<VnniWords> {
  [[gnu::always_inline]] static __m256i multiply_add(__m256i sum, __m256i weights, __m256i inputs) {
    return _mm256_dpwssd_avx_epi32(sum, weights, inputs);
  }
};

}  // namespace

constinit const MatMulKernel level8_n32_avxvnni =
    level_kernel<VnniBytes>("level8_n32_avxvnni", Isa::kAvxVnni, contract::kLayoutAvx2, &table8_n32_avx2);
constinit const MatMulKernel level16_n32_avxvnni =
    level_kernel<VnniWords>("level16_n32_avxvnni", Isa::kAvxVnni, contract::kLayoutAvx2, &table16_n32_avx2);

}  // namespace dualbinary
