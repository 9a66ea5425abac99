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
struct BinaryMethod {
  static constexpr int kPlanes = P;
  static constexpr int kRows = kRowsOfX;
  static constexpr int kBits = 8 * kSets;
  static constexpr int kSetWords = simt::kLanes;  // [column][t], the order of the lanes
  // Four words more keep the writes of eight tiles at once off each other's banks.
  static constexpr int kTileWords = kRows * kSets * kSetWords + 4;

  struct Sums {
    float of[kRows][2];  // rows r and r + 8 of the weight
  };

  DUALBINARY_DEVICE static void fill(const int (&q)[kLaneInputs], int row, int t, std::uint32_t* operands) {
    DUALBINARY_UNROLL
    for (int set = 0; set < kSets; ++set) {
      std::uint32_t words[8];
      to_bit_planes(q, 8 * set, words);
      DUALBINARY_UNROLL
      for (int column = 0; column < 8; ++column) {
        operands[(row * kSets + set) * kSetWords + 4 * column + t] = words[column];
      }
    }
  }

  DUALBINARY_DEVICE static void multiply(const PackedWeight& weight, int row_tile, int tile, const TileWords<P>& words,
                                         int lane, const std::uint32_t* operands, const float* steps, Sums& sums) {
    int part = 0;
    while (part < kParts) {
      // The parts of this tile that lie in one group.
      const int group = group_of(weight, kParts * tile + part);
      std::uint32_t mask = 0;
      do {
        mask |= 0x11111111u << part;
        ++part;
      } while (part < kParts && group_of(weight, kParts * tile + part) == group);
      multiply_group(weight, row_tile, group, mask, words, lane, operands, steps, sums);
    }
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
  DUALBINARY_DEVICE static void multiply_group(const PackedWeight& weight, int row_tile, int group, std::uint32_t mask,
                                               const TileWords<P>& words, int lane, const std::uint32_t* operands,
                                               const float* steps, Sums& sums) {
    Pair scales[P + 1] = {};
    DUALBINARY_UNROLL
    for (int c = 0; c < P; ++c) scales[c] = load_scales(weight, row_tile, group, c, lane / 4);
    const bool offset = weight.C > P;
    if (offset) scales[P] = load_scales(weight, row_tile, group, P, lane / 4);
    DUALBINARY_UNROLL
    for (int row = 0; row < kRows; ++row) {
      std::uint32_t columns[kSets];
      DUALBINARY_UNROLL
      for (int set = 0; set < kSets; ++set) columns[set] = operands[(row * kSets + set) * kSetWords + lane] & mask;
      Pair sum{0, 0};
      DUALBINARY_UNROLL
      for (int p = 0; p < P; ++p) add(words.w[2 * p], words.w[2 * p + 1], columns, lane, scales[p], sum);
      // The offset is a plane of ones.
      if (offset) add(~0u, ~0u, columns, lane, scales[P], sum);
      sums.of[row][0] = simt::multiply_add(steps[row], sum.low, sums.of[row][0]);
      sums.of[row][1] = simt::multiply_add(steps[row], sum.high, sums.of[row][1]);
    }
  }

  DUALBINARY_DEVICE static void add(std::uint32_t low, std::uint32_t high, const std::uint32_t (&columns)[kSets],
                                    int lane, const Pair& scales, Pair& sum) {
    int d[kSets][4] = {};
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
