// Definition of what a kernel computes, and the plain data that core and kernels exchange.
//
//   Y[m,n] = sum over groups g of ( sum over planes p of scales[p,n,g] * sum over k in g of planes[p,n,k] * X[m,k] )
//            + sum over g of scales[P,n,g] * sum over k in g of X[m,k]            only where scales has P+1 rows
//
// Those are free levels. Even ones have one row of scales, the steps, and w = step * (q - zero) with q = sum_p 2^p b_p:
// they are free levels with scales 2^p * step and the offset -zero * step, or that of a second row.
//
// M rows of activations, N outputs, K inputs, G group_size, P planes, C rows of scales.
//
// Table kernels (table-inl.h), the fast ones for few rows: four neighboring inputs, a nibble, have 16 subset sums. For
// every row of X these sums are rounded to integers and stored as a table of 16 entries; four bits of a plane then
// select one entry by a byte shuffle, and integers are added. A segment is a run of at most kMaxSegment inputs of one
// group that shares one rounding step. An entry is stored with a bias, so that it is unsigned:
//
//   entry = round((sum of selected x - half of the nibble's sum) / step) + bias
//   sum over a segment of plane * x  ~=  step * (sum of entries + start),
//                                        start = round(half of the segment's sum / step) - bias * nibbles
//
// Planes of even levels are joined in integers, before the one multiplication by their step. With the middle level,
// (2^P - 1) / 2, the entries need no correction, and a zero point that is one constant of the node only changes the
// start:
//
//   sum over a segment of (q - zero) * x  ~=  step of x * (sum over p of 2^p * (sum of entries - bias * nibbles) +
//   start),
//                                             start = round((middle - zero) * segment's sum / step of x)
//
// The start is 0 for the middle itself, as of signs. Its rounding is one more error of half a step of x, for all planes
// of a segment. Zero points of groups and offsets are no part of it: they add their product with the sum of x in float.
// All integers are less than 2^30: 255 * 65534 * 32 for the planes, and half of that for the start.
//
// An entry is written in digits of 8 bits, each in a separate byte, and each digit is looked up and added by itself.
// One digit carries int8 accuracy (level 4; bias 127, as centering halves the range), two carry that of activations of
// 15 bits, or better (level 0; bias 32767): those would have a step of a = max|x| / 16383 and an error of up to a/2 in
// each of the four inputs of a nibble. The step of an entry is at most (4 max|x| / 2) / 32767, less than a, and a
// nibble has one rounding error for any selection.
//
// Level kernels, for calls of many rows, and for all of wide even levels, on CPUs that multiply bytes: the planes and
// scales of a group give each input one of 2^P levels. Free levels (arm_i8mm.cc) are rounded to bytes, with a step and
// a minimum for each output and group, inputs to 8 bits, with a step for each segment, and bytes are multiplied:
//
//   sum over a segment of level * x  ~=  step of x * (step of levels * sum of (byte * x byte) + minimum * sum of x
//   bytes)
//                                        + center of the levels * (sum of x - step of x * sum of x bytes)
//
// Even levels (x86_levels-inl.h) are bytes as they are, with a center of (2^P - 1) / 2 steps, and an input may be 16
// bits, two bytes or a word, for level 0:
//
//   sum over a segment of level * x  ~=  step of levels * (step of x * sum of (q * x byte) - zero * sum of x
//                                        + center * (sum of x - step of x * sum of x bytes))
//
// This header is included by files that are compiled for one ISA, so it holds no function: an inline function compiled
// there could be kept by the linker for everyone and then fail on an older CPU.
#pragma once

#include <cstddef>
#include <cstdint>

#include "contract.h"

namespace dualbinary {

// kCode8 is for scales alone: see Stored. Activations of kBFloat16 are for CUDA devices alone.
enum class Element : std::int32_t { kFloat32 = 0, kFloat16 = 1, kCode8 = 2, kBFloat16 = 3 };

enum class Isa : std::int32_t { kScalar = 0, kAvx2 = 1, kAvx512 = 2, kNeon = 3, kI8mm = 4, kAvxVnni = 5 };

// Inputs in a segment, at most. One step for 128 inputs keeps level 4 within 8e-3 for any group_size (Gaussian input:
// 6.5e-3 at 128), and sums of entries stay small: 32 nibbles * 255 = 8160 fits the 16-bit lanes of AVX2, and
// 32 * 2^16 = 2^21 is exact in float32, so no kernel can overflow.
inline constexpr std::int64_t kMaxSegment = 128;

// Rows of X that one call of MatMulKernel::multiply takes, at most: the results of an output block, 64 * 32 * 4 bytes,
// stay in a quarter of a 32 KiB L1 cache.
inline constexpr std::int64_t kMaxTileRows = 64;

// Scales of type kCode8: bytes of the factor before a row's codes, the code of zero, and codes in a factor.
inline constexpr std::int64_t kFactorBytes = contract::kScaleCodeFactorBytes;
inline constexpr std::int64_t kCodeZero = contract::kScaleCodeZero;
inline constexpr std::int64_t kCodeUnit = contract::kScaleCodeUnit;

// C, at most.
inline constexpr std::int64_t kMaxScaleRows = contract::kMaxPlanes + 1;

// Values of Spec::levels; and of Spec::twice_zero, where every group has a zero point.
inline constexpr std::int64_t kFreeLevels = contract::kAttrLevels0;
inline constexpr std::int64_t kEvenLevels = contract::kAttrLevels1;
inline constexpr std::int64_t kGroupZeros = contract::kAttrTwiceZeroMinimum;

// A weight as its owner describes it. Nothing in it can be trusted.
struct Spec {
  std::int64_t K;
  std::int64_t N;
  std::int64_t group_size;
  std::int64_t planes;      // P
  std::int64_t scale_rows;  // C: planes, or 1 for even levels, and one more with an offset
  std::int64_t layout;      // stored layout of the contract: plain, codes, or blocks for one instruction set
  std::int64_t accuracy_level;
  std::int64_t levels;         // kFreeLevels or kEvenLevels
  std::int64_t twice_zero;     // of even levels without an offset: the zero point in halves of a step, or kGroupZeros
  std::int64_t scale_outputs;  // N, or 1 where one step stands for all outputs
  Element scale_type;
};

// A spec that core's checked_shape() has accepted, with what follows from it.
struct Shape : Spec {
  std::int64_t groups;        // Kp / G
  std::int64_t row_bytes;     // of a plane of layout plain: Kp / 8, and a bit for each group where groups have zeros
  std::int64_t halves;        // groups in a unit: 1; 2 where G is 16
  std::int64_t units;         // what packed forms store as one group: groups, or pairs of them, rounded up
  std::int64_t segment_size;  // the largest multiple of 32 that divides a unit and is at most kMaxSegment
  std::int64_t segments;      // of all units
};

// Layout 1 of the contract: planes [P, N, row_bytes], scales [C, scale_outputs, Kp/G]; or, of type kCode8, bytes
// [.., 2 + Kp/G]: each row a finite float16 factor, low byte first, and codes, with scale = factor * (code - 128) /
// 128. The zero point of group g is the number of the bits g behind the Kp of each plane's row.
struct Stored {
  const std::uint8_t* planes;
  const void* scales;
};

// Destination of an output block that is unpacked: its outputs in layout 1, planes [P, block_outputs, row_bytes] and
// scales [C, block_outputs, ..].
struct Unpacked {
  std::uint8_t* planes;
  std::uint8_t* scales;
};

// Rows of activations as the caller holds them: [rows, K] of `type`.
struct Activations {
  const void* data;
  Element type;
};

// Rows of activations in the form that one kernel reads, which nobody else looks into: its prepared_bytes().
struct PreparedRows {
  std::uint8_t* data;
  std::int64_t rows;
};

// Output blocks [block_begin, block_end) for all prepared rows. `y` is [rows, N] of `y_type`; only the outputs of these
// blocks are written.
struct Product {
  const Shape* shape;
  const std::uint8_t* packed;
  PreparedRows x;
  void* y;
  Element y_type;
  std::int64_t block_begin;
  std::int64_t block_end;
};

// An entry of the inventory. The exact kernel has no functions: it reads the stored weight, see exact.h.
struct MatMulKernel {
  const char* name;
  Isa isa;
  int accuracy_level;   // the lowest level whose promise the kernel keeps; it may serve higher ones
  std::int64_t layout;  // the stored layout of the contract that its packed form is
  bool free_levels;     // it serves them; and
  bool even_levels;     // even ones
  int block_outputs;    // of a packed output block
  // A kernel for calls of many rows may read the packed form of another one, which then serves the other calls: a
  // weight that was packed for `packed_as` takes this kernel from min_rows() rows on. Both null: it stands for itself.
  const MatMulKernel* packed_as;
  std::int64_t (*min_rows)(const Shape&);
  // Bytes of one packed output block.
  std::size_t (*block_bytes)(const Shape&);
  // Packs output block number `block` of the stored weight; outputs past N become zero.
  void (*pack_block)(const Shape&, const Stored&, std::int64_t block, std::uint8_t* packed);
  // Unpacks the output block at `packed`; outputs past N too.
  void (*unpack_block)(const Shape&, const std::uint8_t* packed, const Unpacked&);
  // Bytes of so many prepared rows; for an even number, proportional to it.
  std::size_t (*prepared_bytes)(const Shape&, std::int64_t rows);
  // Prepares row `row` of X. Returns false where it needs the exact kernel: it holds NaN or infinity, its sums
  // overflow, or a step would be too small for a normal float. The prepared row is then void.
  bool (*prepare_row)(const Shape&, const Activations&, std::int64_t row, const PreparedRows&);
  // Returns false where one of the results may be infinite or NaN.
  bool (*multiply)(const Product&);
};

}  // namespace dualbinary
