// Level kernel, for calls of many rows on Arm CPUs with int8 matrix multiplication (i8mm). Its math: kernel.h.
//
// It reads the packed form of the NEON table kernels. For each segment of an output block it makes bytes of the planes
// once, and multiplies them with all rows of the tile: usmmla multiplies two outputs by two rows over 8 inputs, 32
// products of whole weights, where the table kernel's two instructions add up 32 inputs of one plane. The bytes take
// about 3 P + 3 instructions for 16 weights, so it pays from kMinRows rows on (P = 2;
// benchmarks/kernels/instruction_count.py).
//
// Even levels are bytes as they are, q, and all planes take one pass; nothing of them is rounded.
//
// Error, beside float rounding, in a segment: an input is off by at most half a step, and what that makes of the
// weights' center c is put right by the exact sum of the inputs, so that a weight w adds |w - c| * step / 2; a level is
// off by at most half its step, (sum of |scales|) / 255 / 2, times |x|. For Gaussian inputs and random planes the first
// gives at most 6.5e-3 of the result's norm at 128 inputs a segment. Rounded levels err by 0.29 steps (uniform), of a
// range R / 255, and the deviation of the levels is at least R / (2 sqrt(P)), which makes up to 0.29 / 255 * 2 sqrt(P)
// = 3.2e-3 at P = 2 and 4.6e-3 at P = 4. Together 7.2e-3 and 7.9e-3, within level 4's 8e-3. The offset is part of the
// levels: by itself it could be far larger than the weights.
#include "contract.h"
#include "kernels/blocks-inl.h"
#include "kernels/inventory.h"
#include "kernels/neon_block.h"

namespace dualbinary {
namespace {

constexpr int kMinRows = 16;
constexpr float kInputRange = 127;
constexpr float kLevelRange = 255;

constexpr int kMaxLevelPlanes = 4;  // a lookup has 16 entries; more planes take another pass
constexpr int kLevels = 1 << kMaxLevelPlanes;
constexpr int kStepInputs = 8;  // of one usmmla
constexpr int kOutputs = NeonBlock::kBlockOutputs;
constexpr int kOutputPairs = kOutputs / 2;
constexpr std::size_t kVector = NeonBlock::kVector;

// Place of input i of sixteen: spread_bits() finds its bit in lane 2t or 2t + 1 for bit t of an output's two bytes, see
// neon_block.h. Entry j is the input in place j.
alignas(16) constexpr std::uint8_t kInputOrder[16] = {0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15};

// ---- Rows of X: bytes, [segment][pair of rows][step of 8 inputs][row of the pair][8].

constexpr int kHalves = 2;  // groups in a segment, at most: two of 16 inputs
static_assert(contract::kHalfGroup == kFloats, "build_bytes() takes a half at a time");

// One segment of a row of X, beside the bytes. Groups of the segment have their own sums.
struct LevelTerms {
  float step;
  std::int32_t sum[kHalves];  // of the bytes
  float remainder[kHalves];   // sum of the inputs - step * sum
};

using LevelForm = PreparedForm<LevelTerms, 1, 2>;
using LevelView = SegmentView<LevelTerms>;

// Bytes of one segment of one row to `out`, eight of every sixteen; `halves` groups are in it. Returns false where they
// cannot represent x.
template <class T>
bool build_bytes(const T* x, std::int64_t count, std::int64_t size, std::int64_t halves, std::uint8_t* out,
                 LevelTerms& terms) {
  alignas(64) float values[kMaxSegment];
  F32x16 sum[kHalves] = {F32x16::set(0), F32x16::set(0)};
  F32x16 largest = F32x16::set(0);
  F32x16 magnitude = F32x16::set(0);
  for (std::int64_t k = 0; k < size; k += kFloats) {
    const F32x16 v = load_activations<F32x16>(x + k, count - k);
    v.store(values + k);
    F32x16& of_group = sum[halves == 1 ? 0 : k / kFloats];
    of_group = F32x16::add(of_group, v);
    magnitude = F32x16::add(magnitude, v.absolute());
    largest = F32x16::max(largest, v.absolute());
  }
  const float range = largest.reduce_max();
  const float step = range / kInputRange;
  terms = {};
  // As in build_segment() of table-inl.h: NaN, infinity, sums that overflow, and steps without bits.
  if (!(magnitude.reduce_add() <= FLT_MAX) || (range > 0 && step < FLT_MIN)) return false;
  const F32x16 inverse = F32x16::set(range > 0 ? 1 / step : 0);
  const uint8x16_t order = vld1q_u8(kInputOrder);
  for (std::int64_t k = 0; k < size; k += kFloats) {
    const F32x16 v = F32x16::multiply(F32x16::load(values + k), inverse);
    uint32x4_t words[4];
    for (int i = 0; i < 4; ++i) words[i] = vreinterpretq_u32_s32(v.rounded(i));
    const uint8x16_t bytes = vqtbl1q_u8(F32x16::low_bytes(words[0], words[1], words[2], words[3]), order);
    terms.sum[halves == 1 ? 0 : k / kFloats] += vaddlvq_s8(vreinterpretq_s8_u8(bytes));
    vst1_u8(out, vget_low_u8(bytes));
    vst1_u8(out + kVector, vget_high_u8(bytes));
    out += 2 * kVector;
  }
  terms.step = step;
  for (int half = 0; half < kHalves; ++half) {
    terms.remainder[half] = sum[half].reduce_add() - step * static_cast<float>(terms.sum[half]);
  }
  return true;
}

bool prepare_level_row(const Shape& shape, const Activations& x, std::int64_t row, const PreparedRows& prepared) {
  const std::int64_t stored_rows = LevelForm::stored_rows(prepared.rows);
  LevelTerms* terms = LevelForm::terms(shape, prepared);
  return with_row(shape, x, row, [&](const auto* values) {
    bool regular = true;
    for (std::int64_t s = 0; s < shape.segments; ++s) {
      const std::int64_t k = s * shape.segment_size;
      std::uint8_t* out = prepared.data + (s * stored_rows + (row & ~std::int64_t{1})) * shape.segment_size;
      regular &= build_bytes(values + k, shape.K - k, shape.segment_size, shape.halves, out + (row & 1) * kStepInputs,
                             terms[s * prepared.rows + row]);
    }
    return regular;
  });
}

// ---- Levels of an output block and group, and the weights of a segment as bytes.

// level = min + step * byte.
struct Levels {
  alignas(16) std::uint8_t bytes[kOutputs][kLevels];  // by the code of an input's bits; even ones are their code
  alignas(16) float step[kOutputs];
  alignas(16) float min[kOutputs];
  alignas(16) float center[kOutputs];
};

// Levels of `kPlanes` planes: level[code] = sum of the scales of the bits in code, plus the offset.
template <int kPlanes>
void find_levels(const LevelView& a, bool offset, Levels& levels) {
  constexpr int kCodes = 1 << kPlanes;
  const bool f16 = a.scale_type == Element::kFloat16;
  const std::size_t row_bytes = kOutputs * (f16 ? sizeof(std::uint16_t) : sizeof(float));
  for (int i = 0; i < kOutputs / 4; ++i) {
    float32x4_t level[kCodes];
    level[0] = offset ? load_scales(a.scales + kPlanes * row_bytes, f16, i) : vdupq_n_f32(0);
    float32x4_t min = level[0];
    float32x4_t max = level[0];
    for (int p = 0; p < kPlanes; ++p) {
      const float32x4_t scale = load_scales(a.scales + static_cast<std::size_t>(p) * row_bytes, f16, i);
      for (int code = 0; code < 1 << p; ++code) level[(1 << p) + code] = vaddq_f32(level[code], scale);
      min = vminq_f32(min, vaddq_f32(min, scale));
      max = vmaxq_f32(max, vaddq_f32(max, scale));
    }
    const float32x4_t range = vsubq_f32(max, min);
    // Division rather than a product with the inverse, which overflows for small scales; without range all is the
    // minimum.
    const float32x4_t divisor = vbslq_f32(vcgtzq_f32(range), range, vdupq_n_f32(1));
    for (int code = 0; code < kCodes; ++code) {
      const float32x4_t part = vdivq_f32(vsubq_f32(level[code], min), divisor);
      const uint32x4_t rounded = vcvtnq_u32_f32(vmulq_n_f32(part, kLevelRange));
      const std::uint32_t max_byte = 255;  // sums in another order may leave the range by a rounding
      const uint32x4_t byte = vminq_u32(rounded, vdupq_n_u32(max_byte));
      levels.bytes[4 * i][code] = static_cast<std::uint8_t>(vgetq_lane_u32(byte, 0));
      levels.bytes[4 * i + 1][code] = static_cast<std::uint8_t>(vgetq_lane_u32(byte, 1));
      levels.bytes[4 * i + 2][code] = static_cast<std::uint8_t>(vgetq_lane_u32(byte, 2));
      levels.bytes[4 * i + 3][code] = static_cast<std::uint8_t>(vgetq_lane_u32(byte, 3));
    }
    vst1q_f32(levels.step + 4 * i, vdivq_f32(range, vdupq_n_f32(kLevelRange)));
    vst1q_f32(levels.min + 4 * i, min);
    vst1q_f32(levels.center + 4 * i, vmulq_n_f32(vaddq_f32(level[0], level[kCodes - 1]), 0.5F));
  }
}

// The same for even levels, of group `half` of the segment.
void find_even_levels(const Shape& shape, const LevelView& a, std::size_t half, Levels& levels) {
  const bool f16 = a.scale_type == Element::kFloat16;
  const std::size_t row_bytes = PackedLayout<NeonBlock>::scale_row_bytes(a.scale_type);
  const std::uint8_t* scales = a.scales + half * static_cast<std::size_t>(shape.scale_rows) * row_bytes;
  const auto half_range = 0.5F * static_cast<float>((1 << shape.planes) - 1);
  for (int i = 0; i < kOutputs / 4; ++i) {
    const float32x4_t step = load_scales(scales, f16, i);
    float32x4_t min = vmulq_n_f32(step, -0.5F * static_cast<float>(shape.twice_zero));
    if (shape.scale_rows > 1) {
      min = load_scales(scales + row_bytes, f16, i);
    } else if (shape.twice_zero == kGroupZeros) {
      min = vnegq_f32(vmulq_f32(step, load_zeros(a.zeros + half * kOutputs, i)));
    }
    vst1q_f32(levels.step + 4 * i, step);
    vst1q_f32(levels.min + 4 * i, min);
    vst1q_f32(levels.center + 4 * i, vfmaq_n_f32(min, step, half_range));
  }
}

// All ones where bit t of an output's two bytes is set, in lanes 2t and 2t + 1.
inline uint8x16_t spread_bits(const std::uint8_t* two_bytes) {
  const uint8x16_t bits =
      vreinterpretq_u8_u64(vzip1q_u64(vdupq_n_u64(0x0808040402020101), vdupq_n_u64(0x8080404020201010)));
  return vtstq_u8(vreinterpretq_u8_u16(vld1q_dup_u16(reinterpret_cast<const std::uint16_t*>(two_bytes))), bits);
}

// Sixteen weights of one output; planes of a line are `plane_bytes` apart.
template <int kPlanes, bool kEven>
uint8x16_t look_up_weights(const std::uint8_t* two_bytes, std::size_t plane_bytes, uint8x16_t levels) {
  // vsli(x, y, 1) is 2 y + the lowest bit of x.
  uint8x16_t code = spread_bits(two_bytes + (kPlanes - 1) * plane_bytes);
#pragma GCC unroll 7
  for (int p = kPlanes - 2; p >= 0; --p) {
    code = vsliq_n_u8(spread_bits(two_bytes + static_cast<std::size_t>(p) * plane_bytes), code, 1);
  }
  code = vandq_u8(code, vdupq_n_u8((1 << kPlanes) - 1));
  return kEven ? code : vqtbl1q_u8(levels, code);
}

// Weights of a segment: [step of 8 inputs][pair of outputs][output of the pair][8].
template <int kPlanes, bool kEven>
void look_up_segment(const LevelView& a, std::int64_t lines, const Levels& levels, std::uint8_t* weights) {
  const std::size_t plane_bytes = static_cast<std::size_t>(lines) * PackedLayout<NeonBlock>::kLineBytes;
  const std::int64_t sixteens = 2 * lines;
  for (int pair = 0; pair < kOutputPairs; ++pair) {
    const uint8x16_t first_levels = kEven ? vdupq_n_u8(0) : vld1q_u8(levels.bytes[2 * pair]);
    const uint8x16_t second_levels = kEven ? vdupq_n_u8(0) : vld1q_u8(levels.bytes[2 * pair + 1]);
    const std::uint8_t* at = a.lines + 4 * pair;
    std::uint8_t* out = weights + static_cast<std::size_t>(pair) * kVector;
    for (std::int64_t sixteen = 0; sixteen < sixteens; ++sixteen) {
      const uint64x2_t first = vreinterpretq_u64_u8(look_up_weights<kPlanes, kEven>(at, plane_bytes, first_levels));
      const uint64x2_t second =
          vreinterpretq_u64_u8(look_up_weights<kPlanes, kEven>(at + 2, plane_bytes, second_levels));
      vst1q_u8(out, vreinterpretq_u8_u64(vzip1q_u64(first, second)));
      vst1q_u8(out + kOutputPairs * kVector, vreinterpretq_u8_u64(vzip2q_u64(first, second)));
      at += 2 * kOutputs;
      out += 2 * kOutputPairs * kVector;
    }
  }
}

// ---- The product.

constexpr int kTilePairs = 4;  // of outputs and of rows: 16 sums and 8 operands of 32 registers

// y += step of x * (step of levels * sum + min * sum of x bytes) + center * remainder, for four outputs of one row and
// group `half` of the segment.
inline void finish_four(const Levels& levels, int n, const LevelTerms& terms, int half, int32x4_t sums, float* y) {
  const float32x4_t min = vmulq_n_f32(vld1q_f32(levels.min + n), static_cast<float>(terms.sum[half]));
  const float32x4_t total = vfmaq_f32(min, vcvtq_f32_s32(sums), vld1q_f32(levels.step + n));
  const float32x4_t result = vfmaq_n_f32(vld1q_f32(y), total, terms.step);
  vst1q_f32(y, vfmaq_n_f32(result, vld1q_f32(levels.center + n), terms.remainder[half]));
}

// The inputs of a segment that are of one group.
struct Part {
  std::int64_t size;   // of the segment
  std::int64_t begin;  // in steps of 8 inputs
  std::int64_t end;
  int half;
};

// Rows 2 * pair0 to 2 * (pair0 + kRowPairs) - 1, all outputs.
template <int kRowPairs>
void multiply_rows(const LevelView& a, const Part& part, const Levels& levels, const std::uint8_t* weights,
                   std::int64_t pair0) {
  const std::int64_t size = part.size;
  const std::uint8_t* rows = a.integers + pair0 * 2 * size;
  weights += static_cast<std::size_t>(part.begin) * kOutputPairs * kVector;
  for (int n = 0; n < kOutputs; n += 2 * kTilePairs) {
    const std::uint8_t* w = weights + static_cast<std::size_t>(n / 2) * kVector;
    int32x4_t sums[kTilePairs][kRowPairs] = {};
#pragma GCC unroll 1
    for (std::int64_t step = part.begin; step < part.end; ++step) {
      int8x16_t x[kRowPairs];
#pragma GCC unroll 4
      for (int r = 0; r < kRowPairs; ++r) {
        x[r] = vreinterpretq_s8_u8(vld1q_u8(rows + 2 * r * size + step * static_cast<std::int64_t>(kVector)));
      }
#pragma GCC unroll 4
      for (int o = 0; o < kTilePairs; ++o) {
        const uint8x16_t weight = vld1q_u8(w + static_cast<std::size_t>(o) * kVector);
#pragma GCC unroll 4
        for (int r = 0; r < kRowPairs; ++r) sums[o][r] = vusmmlaq_s32(sums[o][r], weight, x[r]);
      }
      w += kOutputPairs * kVector;
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRowPairs; ++r) {
      const std::int64_t m = 2 * (pair0 + r);
#pragma GCC unroll 2
      for (int o = 0; o < kTilePairs; o += 2) {
        // Each holds two outputs of two rows: [output][row].
        const int32x4_t first = vuzp1q_s32(sums[o][r], sums[o + 1][r]);
        const int32x4_t second = vuzp2q_s32(sums[o][r], sums[o + 1][r]);
        float* y = a.y + m * kOutputs + n + 2 * o;
        finish_four(levels, n + 2 * o, a.terms[m], part.half, first, y);
        if (m + 1 < a.rows) finish_four(levels, n + 2 * o, a.terms[m + 1], part.half, second, y + kOutputs);
      }
    }
  }
}

// All rows.
void multiply_part(const LevelView& a, const Part& part, const Levels& levels, const std::uint8_t* weights) {
  const std::int64_t pairs = (a.rows + 1) / 2;
  std::int64_t pair = 0;
  for (; pair + kTilePairs <= pairs; pair += kTilePairs) multiply_rows<kTilePairs>(a, part, levels, weights, pair);
  for (; pair < pairs; ++pair) multiply_rows<1>(a, part, levels, weights, pair);
}

template <int kPlanes>
void add_planes(const LevelView& a, std::int64_t size, bool offset) {
  Levels levels;
  alignas(64) std::uint8_t weights[kMaxSegment * kOutputs];
  find_levels<kPlanes>(a, offset, levels);
  look_up_segment<kPlanes, false>(a, size / kLineInputs, levels, weights);
  multiply_part(a, {size, 0, size / kStepInputs, 0}, levels, weights);
}

// A segment of even levels, all planes at once.
template <int kPlanes>
void add_even_planes(const Shape& shape, const LevelView& a) {
  Levels levels;
  alignas(64) std::uint8_t weights[kMaxSegment * kOutputs];
  look_up_segment<kPlanes, true>(a, shape.segment_size / kLineInputs, levels, weights);
  const std::int64_t steps = shape.segment_size / kStepInputs / shape.halves;
  for (int half = 0; half < shape.halves; ++half) {
    find_even_levels(shape, a, static_cast<std::size_t>(half), levels);
    multiply_part(a, {shape.segment_size, half * steps, (half + 1) * steps, half}, levels, weights);
  }
}

void add_even_segment(const Shape& shape, const LevelView& view) {
  static_assert(contract::kMaxPlanes == 8, "one case for each number of planes");
  switch (shape.planes) {
    case 1:
      return add_even_planes<1>(shape, view);
    case 2:
      return add_even_planes<2>(shape, view);
    case 3:
      return add_even_planes<3>(shape, view);
    case 4:
      return add_even_planes<4>(shape, view);
    case 5:
      return add_even_planes<5>(shape, view);
    case 6:
      return add_even_planes<6>(shape, view);
    case 7:
      return add_even_planes<7>(shape, view);
    default:
      return add_even_planes<8>(shape, view);
  }
}

// All planes of a segment of free levels, four at a time; the last pass takes the offset along.
void add_segment(const Shape& shape, LevelView view) {
  const bool with_offset = shape.scale_rows > shape.planes;
  const std::int64_t size = shape.segment_size;
  for (std::int64_t left = shape.planes; left > 0; left -= kMaxLevelPlanes) {
    const bool offset = with_offset && left <= kMaxLevelPlanes;
    switch (left) {
      case 1:
        add_planes<1>(view, size, offset);
        break;
      case 2:
        add_planes<2>(view, size, offset);
        break;
      case 3:
        add_planes<3>(view, size, offset);
        break;
      default:
        add_planes<4>(view, size, offset);
    }
    view.lines += kMaxLevelPlanes * PackedLayout<NeonBlock>::kLineBytes * static_cast<std::size_t>(size / kLineInputs);
    view.scales += kMaxLevelPlanes * PackedLayout<NeonBlock>::scale_row_bytes(view.scale_type);
  }
}

bool multiply_levels(const Product& a) {
  if (a.shape->levels == kEvenLevels) {
    return for_blocks<NeonBlock, LevelForm>(a, [&](const LevelView& view) { add_even_segment(*a.shape, view); });
  }
  return for_blocks<NeonBlock, LevelForm>(a, [&](const LevelView& view) { add_segment(*a.shape, view); });
}

}  // namespace

constinit const MatMulKernel level8_n32_i8mm = {.name = "level8_n32_i8mm",
                                                .isa = Isa::kI8mm,
                                                .accuracy_level = 4,
                                                .layout = contract::kLayoutNeon,
                                                .free_levels = true,
                                                .even_levels = true,
                                                .block_outputs = NeonBlock::kBlockOutputs,
                                                .packed_as = &table8_n32_neon,
                                                .min_rows = kMinRows,
                                                .min_planes = 1,
                                                .block_bytes = PackedLayout<NeonBlock>::block_bytes,
                                                .pack_block = pack_block<NeonBlock>,
                                                .unpack_block = unpack_block<NeonBlock>,
                                                .prepared_bytes = LevelForm::bytes,
                                                .prepare_row = prepare_level_row,
                                                .multiply = multiply_levels};

}  // namespace dualbinary
