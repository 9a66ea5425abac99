// Few rows by the binary matrix instruction: the planes are A as they are stored, and the eight columns of B are the
// bit planes of one row's integers, so that the width that other products of one row waste is in full use.
//
// Column j counts bits of weight 2^j (-2^j for the sign bit), and the product is their sum: a lane has the columns 2t
// and 2t + 1, and the factor 4^t waits until the end. Integers of 16 bits are two sets of eight columns.
#pragma once

#include <cstdint>

#include "cuda/decode.h"

namespace dualbinary::cuda {

// kSets: 1 for integers of 8 bits, 2 for 16.
template <int P, int kSets, int kRowsOfX>
struct BinaryMma {
  static constexpr int kPlanes = P;
  static constexpr int kRows = kRowsOfX;
  static constexpr int kBits = 8 * kSets;
  static constexpr int kBlocksOfMultiprocessor = P <= 2 ? 3 : 2;
  static constexpr int kSetWords = simt::kLanes;  // [column][t], the order of the lanes
  // The four words of the steps also keep the writes of eight tiles at once off each other's banks.
  static constexpr int kTileWords = kRows * kSets * kSetWords + 4;

  struct Sums {
    float of[kRows][2];  // rows r and r + 8 of the weight
  };

  DUALBINARY_DEVICE static void fill(const std::uint32_t (&q)[kLaneInputs], int row, int t, std::uint32_t* operands) {
    DUALBINARY_UNROLL
    for (int set = 0; set < kSets; ++set) {
      std::uint32_t words[8];
      to_bit_planes(q, set, words);
      DUALBINARY_UNROLL
      for (int column = 0; column < 8; ++column) {
        operands[(row * kSets + set) * kSetWords + 4 * column + t] = words[column];
      }
    }
  }

  template <Scales kType, class Array>
  DUALBINARY_DEVICE static void multiply(const PackedWeight& weight, const TileView<P>& view, int lane,
                                         const Array& operands, Sums& sums) {
    view.for_groups(weight, [&](int begin, int end, const simt::SharedArray& lines) {
      // Bits of the parts that lie in this group.
      const std::uint32_t mask = 0x11111111u * ((1u << end) - (1u << begin));
      multiply_group<kType>(weight, view, lines, mask, lane, operands, sums);
    });
  }

  DUALBINARY_DEVICE static void reduce(const Sums& sums, int lane, float* out) {
    const int t = lane % 4;
    const float factor = static_cast<float>(1 << 2 * t);
    DUALBINARY_UNROLL
    for (int row = 0; row < kRows; ++row) {
      DUALBINARY_UNROLL
      for (int half = 0; half < 2; ++half) {
        float sum = sums.of[row][half] * factor;
        sum += simt::shuffle_xor(sum, 1);
        sum += simt::shuffle_xor(sum, 2);
        if (t == 0) out[row * kTileRows + lane / 4 + 8 * half] = sum;
      }
    }
  }

 private:
  template <Scales kType, class Array>
  DUALBINARY_DEVICE static void multiply_group(const PackedWeight& weight, const TileView<P>& view,
                                               const simt::SharedArray& lines, std::uint32_t mask, int lane,
                                               const Array& operands, Sums& sums) {
    Pair scales[P + 1];
    read_scales<P, kType>(weight, lines, view.row_tile, lane / 4, scales);
    const Array of_lane = operands.after(4 * lane);
    DUALBINARY_UNROLL
    for (int row = 0; row < kRows; ++row) {
      std::uint32_t columns[kSets];
      DUALBINARY_UNROLL
      for (int set = 0; set < kSets; ++set) columns[set] = of_lane.word((row * kSets + set) * kSetWords) & mask;
      Pair sum{0, 0};
      DUALBINARY_UNROLL
      for (int p = 0; p < P; ++p) add(view.words.w[2 * p], view.words.w[2 * p + 1], columns, lane, scales[p], sum);
      if (weight.base != Base::kNone) add(~0u, ~0u, columns, lane, scales[P], sum);
      const float step = simt::float_of(operands.word(kTileWords - kRows + row));
      sums.of[row][0] = simt::multiply_add(step, sum.low, sums.of[row][0]);
      sums.of[row][1] = simt::multiply_add(step, sum.high, sums.of[row][1]);
    }
  }

  DUALBINARY_DEVICE static void add(std::uint32_t low, std::uint32_t high, const std::uint32_t (&columns)[kSets],
                                    int lane, const Pair& scales, Pair& sum) {
    int d[kSets][4];
    DUALBINARY_UNROLL
    for (int set = 0; set < kSets; ++set) simt::mma_b1(d[set], low, high, columns[set]);
    // Columns 2t and 2t + 1 in units of 4^t; the last column of the last set is the sign.
    const int second = lane % 4 == 3 ? -2 : 2;
    int of_low;
    int of_high;
    if constexpr (kSets == 1) {
      of_low = d[0][0] + second * d[0][1];
      of_high = d[0][2] + second * d[0][3];
    } else {
      of_low = d[0][0] + 2 * d[0][1] + 256 * (d[1][0] + second * d[1][1]);
      of_high = d[0][2] + 2 * d[0][3] + 256 * (d[1][2] + second * d[1][3]);
    }
    sum.low = simt::multiply_add(scales.low, simt::small_int_to_float(of_low), sum.low);
    sum.high = simt::multiply_add(scales.high, simt::small_int_to_float(of_high), sum.high);
  }
};

}  // namespace dualbinary::cuda
