// Few rows by the matrix instruction of bytes: rows of X are the columns of B, a plane's bits the bytes 0 and 128 of A.
//
// For 5 to 16 rows, and for one to four where the binary instruction is slow (compute capability 10 and up). One
// instruction takes 32 inputs, a part of a tile, so that a group ends between two of them. The integers' 16 bits are a
// signed high byte and an unsigned low one.
#pragma once

#include <cstdint>

#include "cuda/decode.h"

namespace dualbinary::cuda {

// kSets: 1 for integers of 8 bits, 2 for 16. kBlocks: of eight rows of X.
template <int P, int kSets, int kBlocks>
struct ByteMma {
  static constexpr int kPlanes = P;
  static constexpr int kRows = 8 * kBlocks;
  static constexpr int kBits = 8 * kSets;
  // Integer sums of all planes at once need registers: 80 at four planes, 16 rows and 16 bits.
  static constexpr int kSumRegisters = (P + 1) * kBlocks * kSets * 4;
  static constexpr int kBlocksOfMultiprocessor = kSumRegisters <= 16 ? 3 : kSumRegisters <= 48 ? 2 : 1;
  // [part][row][t][set and half]: a lane reads all that it needs of a part at once, and the lanes of eight rows
  // next to one another.
  static constexpr int kLaneWords = 2 * kSets;
  static constexpr int kPartWords = kRows * 4 * kLaneWords;
  static constexpr int kStepWords = kRows + 4;  // the last four are padding, against conflicts of banks
  static constexpr int kTileWords = kParts * kPartWords + kStepWords;

  struct Sums {
    float of[kBlocks][4];  // as a fragment D
  };

  DUALBINARY_DEVICE static void fill(const std::uint32_t (&q)[kLaneInputs], int row, int t, std::uint32_t* operands) {
    DUALBINARY_UNROLL
    for (int set = 0; set < kSets; ++set) {
      std::uint32_t words[8];
      to_bytes(q, set, words);
      DUALBINARY_UNROLL
      for (int i = 0; i < 8; ++i) {
        operands[i % kParts * kPartWords + (4 * row + t) * kLaneWords + 2 * set + i / kParts] = words[i];
      }
    }
  }

  template <Scales kType, class Array>
  DUALBINARY_DEVICE static void multiply(const PackedWeight& weight, const TileView<P>& view, int lane,
                                         const Array& operands, Sums& sums) {
    // Integer sums of a group, plane by plane, and of the plane of ones.
    int d[P + 1][kBlocks][kSets][4] = {};
    float of_tile[kBlocks][4] = {};
    int group = view.group;
    int group_end = end_of_group(weight, group) - view.first_part;
    simt::SharedArray lines = view.lines;
    DUALBINARY_UNROLL
    for (int part = 0; part < kParts; ++part) {
      add_part(weight, view, part, operands.after(4 * (part * kPartWords + lane * kLaneWords)), d);
      if (part + 1 < kParts && part + 1 != group_end) continue;
      end_group<kType>(weight, view, lines, lane, d, of_tile);
      lines = lines.after(weight.C * line_bytes(kType));
      group_end = end_of_group(weight, ++group) - view.first_part;
    }
    const int t = lane % 4;
    DUALBINARY_UNROLL
    for (int block = 0; block < kBlocks; ++block) {
      const int place = kTileWords - kRows + 8 * block + 2 * t;
      const float first = simt::float_of(operands.word(place));
      const float second = simt::float_of(operands.word(place + 1));
      DUALBINARY_UNROLL
      for (int i = 0; i < 4; ++i) {
        sums.of[block][i] = simt::multiply_add(i % 2 == 0 ? first : second, of_tile[block][i], sums.of[block][i]);
      }
    }
  }

  DUALBINARY_DEVICE static void reduce(const Sums& sums, int lane, float* out) {
    DUALBINARY_UNROLL
    for (int block = 0; block < kBlocks; ++block) {
      DUALBINARY_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int row = 8 * block + 2 * (lane % 4) + i % 2;
        out[row * kTileRows + lane / 4 + 8 * (i / 2)] = sums.of[block][i];
      }
    }
  }

 private:
  using Products = int (&)[P + 1][kBlocks][kSets][4];

  // Adds the products of 32 inputs, for all planes. `operands` are this lane's.
  template <class Array>
  DUALBINARY_DEVICE static void add_part(const PackedWeight& weight, const TileView<P>& view, int part,
                                         const Array& operands, Products d) {
    std::uint32_t b[kBlocks][kLaneWords];
    DUALBINARY_UNROLL
    for (int block = 0; block < kBlocks; ++block) {
      DUALBINARY_UNROLL
      for (int i = 0; i < kSets; ++i) {
        const simt::Words2 v = operands.words2(simt::kLanes * kLaneWords / 2 * block + i);
        b[block][2 * i] = v.w[0];
        b[block][2 * i + 1] = v.w[1];
      }
    }
    DUALBINARY_UNROLL
    for (int c = 0; c <= P; ++c) {
      if (c == P && weight.base == Base::kNone) break;
      constexpr std::uint32_t kBytes = 0x80808080u;
      std::uint32_t a[4] = {kBytes, kBytes, kBytes, kBytes};
      if (c < P) {
        const std::uint32_t low = view.words.w[c < P ? 2 * c : 0];
        const std::uint32_t high = view.words.w[c < P ? 2 * c + 1 : 0];
        // A multiplication is a shift that the other pipe can do.
        a[0] = low * (1u << (7 - part)) & kBytes;
        a[1] = high * (1u << (7 - part)) & kBytes;
        a[2] = low * (1u << (3 - part)) & kBytes;
        a[3] = high * (1u << (3 - part)) & kBytes;
      }
      DUALBINARY_UNROLL
      for (int block = 0; block < kBlocks; ++block) {
        if constexpr (kSets == 1) {
          simt::mma_u8<true>(d[c][block][0], a, b[block][0], b[block][1]);
        } else {
          simt::mma_u8<false>(d[c][block][0], a, b[block][0], b[block][1]);
          simt::mma_u8<true>(d[c][block][1], a, b[block][2], b[block][3]);
        }
      }
    }
  }

  // Adds the sums of a group, times its scales, to those of the tile, and sets them to zero.
  template <Scales kType>
  DUALBINARY_DEVICE static void end_group(const PackedWeight& weight, const TileView<P>& view,
                                          const simt::SharedArray& lines, int lane, Products d,
                                          float (&of_tile)[kBlocks][4]) {
    Pair scales[P + 1];
    read_scales<P, kType>(weight, lines, view.row_tile, lane / 4, scales);
    DUALBINARY_UNROLL
    for (int c = 0; c <= P; ++c) {
      if (c == P && weight.base == Base::kNone) break;
      DUALBINARY_UNROLL
      for (int block = 0; block < kBlocks; ++block) {
        DUALBINARY_UNROLL
        for (int i = 0; i < 4; ++i) {
          // Exact: a set bit is 128. At 16 bits the sum is at most 128 * 32767 < 2^22.
          int whole = d[c][block][0][i] >> 7;
          if constexpr (kSets == 2) whole += 2 * d[c][block][1][i];
          of_tile[block][i] = simt::multiply_add(i < 2 ? scales[c].low : scales[c].high,
                                                 simt::small_int_to_float(whole), of_tile[block][i]);
          DUALBINARY_UNROLL
          for (int set = 0; set < kSets; ++set) d[c][block][set][i] = 0;
        }
      }
    }
  }
};

}  // namespace dualbinary::cuda
