// One product over output blocks, for table kernels and level kernels alike, generic over the ISA: scales as floats,
// the loop over blocks and segments, results to Y. As pack-inl.h, it is private to each ISA file.
//
// Beside what pack-inl.h asks of it, a `Policy` has
//
//   F32x16   sixteen floats with the operations that are used here and in table-inl.h, see simd/
//   fetch    to be called for each cache line of the packed form that is read here: software prefetch, or nothing
#pragma once

#include <cfloat>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/kernel.h"
#include "kernels/pack-inl.h"

namespace dualbinary {
namespace {

constexpr int kFloats = 16;  // of F32x16

// Form of prepared rows (kernel.h): integers [segment][row][kInputBytes bytes for each input], with rows up to a
// multiple of kRowMultiple, and then Terms [segment][row], what else a product needs of one segment of one row.
template <class TermsOfSegment, int kBytes, int kRowMultiple>
struct PreparedForm {
  using Terms = TermsOfSegment;
  static constexpr int kInputBytes = kBytes;
  static std::int64_t stored_rows(std::int64_t rows) { return (rows + kRowMultiple - 1) / kRowMultiple * kRowMultiple; }
  // Of the integers of all rows.
  static std::int64_t segment_bytes(const Shape& shape, std::int64_t rows) {
    return stored_rows(rows) * shape.segment_size * kInputBytes;
  }
  static std::size_t bytes(const Shape& shape, std::int64_t rows) {
    const std::int64_t terms = stored_rows(rows) * static_cast<std::int64_t>(sizeof(Terms));
    return static_cast<std::size_t>(shape.segments * (segment_bytes(shape, rows) + terms));
  }
  static Terms* terms(const Shape& shape, const PreparedRows& x) {
    return reinterpret_cast<Terms*>(x.data + shape.segments * segment_bytes(shape, x.rows));
  }
};

// Calls body(x) with row `row` of X, in the type of its elements.
template <class Body>
bool with_row(const Shape& shape, const Activations& x, std::int64_t row, const Body& body) {
  if (x.type == Element::kFloat16) return body(static_cast<const std::uint16_t*>(x.data) + row * shape.K);
  return body(static_cast<const float*>(x.data) + row * shape.K);
}

// Sixteen activations from `x`, of which `count` exist; the rest is zero.
template <class F32x16, class T>
F32x16 load_activations(const T* x, std::int64_t count) {
  if (count >= kFloats) return F32x16::load(x);
  T padded[kFloats] = {};
  if (count > 0) std::memcpy(padded, x, static_cast<std::size_t>(count) * sizeof(T));
  return F32x16::load(padded);
}

// Scales of an output block as float32, from factors and codes, or from bfloat16. Both products of the former are
// exact: 11 bits times 8, and a power of two.
template <class Policy>
struct ExpandedScales {
  using F32x16 = typename Policy::F32x16;
  alignas(kAlignment) float factors[kMaxScaleRows * Policy::kBlockOutputs];  // of the block, divided by kCodeUnit
  alignas(kAlignment) float values[kMaxScaleRows * Policy::kBlockOutputs];   // of the unit

  static bool needed(Element type) { return type == Element::kCode8 || type == Element::kBFloat16; }

  // Nothing where scales are no codes.
  void load_factors(const Shape& shape, const std::uint8_t* packed) {
    if (shape.scale_type != Element::kCode8) return;
    const F32x16 unit = F32x16::set(1.0F / kCodeUnit);
    for (std::int64_t i = 0; i < shape.scale_rows * Policy::kBlockOutputs; i += kFloats) {
      const std::uint8_t* at = packed + i * kFactorBytes;
      Policy::fetch(at);
      F32x16::multiply(F32x16::load(reinterpret_cast<const std::uint16_t*>(at)), unit).store(factors + i);
    }
  }
  // Rows of scales of a unit: [halves][C], two halves at even levels alone, where C is 2 at most.
  void load_unit(const Shape& shape, const std::uint8_t* packed) {
    const std::int64_t row_values = shape.scale_rows * Policy::kBlockOutputs;
    if (shape.scale_type == Element::kBFloat16) {
      for (std::int64_t i = 0; i < shape.halves * row_values; i += kFloats) {
        const std::uint8_t* at = packed + i * static_cast<std::int64_t>(sizeof(std::uint16_t));
        if (i % Policy::kBlockOutputs == 0) Policy::fetch(at);
        F32x16::load_bfloat16(reinterpret_cast<const std::uint16_t*>(at)).store(values + i);
      }
      return;
    }
    for (std::int64_t half = 0; half < shape.halves; ++half) {
      for (std::int64_t i = 0; i < row_values; i += kFloats) {
        const std::uint8_t* at = packed + half * row_values + i;
        if (i % static_cast<std::int64_t>(kAlignment) == 0) Policy::fetch(at);
        const F32x16 codes = F32x16::load(reinterpret_cast<const std::int8_t*>(at));
        F32x16::multiply(codes, F32x16::load(factors + i)).store(values + half * row_values + i);
      }
    }
  }
};

// One segment of an output block and all rows of X. `Terms` are those of the kernel's prepared rows.
template <class Terms>
struct SegmentView {
  const std::uint8_t* lines;     // of the pass's first plane; the next plane follows at once
  const std::uint8_t* scales;    // free levels: of the pass's first plane, then of the next, then of the offset
                                 // even levels: [halves][C][kBlockOutputs]
  const std::uint8_t* zeros;     // zero points [halves][kBlockOutputs]; null where groups have none
  Element scale_type;            // float32 or float16
  const std::uint8_t* integers;  // of row 0
  const Terms* terms;            // of row 0
  std::int64_t rows;
  float* y;  // [rows][kBlockOutputs]; null where results are not in memory
};

// Factor that turns a float that T cannot hold into infinity.
template <class T>
constexpr float kOverflow = sizeof(T) == sizeof(std::uint16_t) ? FLT_MAX / 65504.F : 1.F;

// Results of an output block, of which `count` outputs exist, to sixteen-wide pieces of Y. `special` becomes NaN where
// one of them is infinite or NaN as T, for 0 * infinity is NaN, and else stays zero.
template <class F32x16, class T>
void store_row(const float* y, std::int64_t count, T* out, F32x16& special) {
  for (std::int64_t n = 0; n < count; n += kFloats) {
    const F32x16 v = F32x16::load(y + n);
    special = F32x16::multiply_add(F32x16::multiply(v, F32x16::set(kOverflow<T>)), F32x16::set(0), special);
    if (n + kFloats <= count) {
      v.store(out + n);
    } else {
      T padded[kFloats];
      v.store(padded);
      std::memcpy(out + n, padded, static_cast<std::size_t>(count - n) * sizeof(T));
    }
  }
}

// Returns whether all results are finite.
template <class Policy, class T>
bool store_block(const Product& a, std::int64_t block, const float* y) {
  using F32x16 = typename Policy::F32x16;
  const std::int64_t n0 = block * Policy::kBlockOutputs;
  const std::int64_t count = a.shape->N - n0 < Policy::kBlockOutputs ? a.shape->N - n0 : Policy::kBlockOutputs;
  F32x16 special = F32x16::set(0);
  for (std::int64_t m = 0; m < a.x.rows; ++m) {
    store_row<F32x16>(y + m * Policy::kBlockOutputs, count, static_cast<T*>(a.y) + m * a.shape->N + n0, special);
  }
  return special.reduce_add() == 0;
}

// Results of an output block: of a tile of rows in memory,
template <class Policy>
struct TileResults {
  alignas(64) float y[kMaxTileRows * Policy::kBlockOutputs];
  void clear(std::int64_t rows) {
    std::memset(y, 0, static_cast<std::size_t>(rows) * Policy::kBlockOutputs * sizeof(float));
  }
  float* in_memory() { return y; }
  template <class T>
  bool store(const Product& a, std::int64_t block) const {
    return store_block<Policy, T>(a, block, y);
  }
};

// or of one row, or kRows, in registers, where a compiler inlines all that is done with them.
template <class Policy, int kRows = 1>
struct RowResults {
  using F32x16 = typename Policy::F32x16;
  static constexpr int kVectors = kRows * Policy::kBlockOutputs / kFloats;
  F32x16 y[kVectors];  // [kRows][kBlockOutputs]
  [[gnu::always_inline]] void clear(std::int64_t) {
    for (F32x16& v : y) v = F32x16::set(0);
  }
  static float* in_memory() { return nullptr; }
  template <class T>
  [[gnu::always_inline]] bool store(const Product& a, std::int64_t block) const {
    alignas(64) float floats[kVectors * kFloats];
    for (int i = 0; i < kVectors; ++i) y[i].store(floats + i * kFloats);
    return store_block<Policy, T>(a, block, floats);
  }
};

// Calls add(SegmentView, Results) for all segments of each output block in turn and stores the block's results; returns
// whether all are finite.
template <class Policy, class Form, class Results, class AddSegment>
[[gnu::always_inline]] inline bool for_results(const Product& a, const AddSegment& add) {
  using Layout = PackedLayout<Policy>;
  const Shape& shape = *a.shape;
  const std::int64_t rows = a.x.rows;
  const std::int64_t integer_bytes = Form::segment_bytes(shape, rows);
  const std::int64_t unit_segments = shape.segments / shape.units;
  const std::size_t head_bytes = Layout::head_bytes(shape);
  const std::size_t segment_bytes = Layout::segment_bytes(shape);
  const bool expand = ExpandedScales<Policy>::needed(shape.scale_type);
  const Element scale_type = expand ? Element::kFloat32 : shape.scale_type;
  ExpandedScales<Policy> expanded;
  const std::uint8_t* at = a.packed + static_cast<std::size_t>(a.block_begin) * Layout::block_bytes(shape);
  bool finite = true;
  for (std::int64_t block = a.block_begin; block < a.block_end; ++block) {
    Results results;
    results.clear(rows);
    if (expand) expanded.load_factors(shape, at);
    at += Layout::factor_bytes(shape);
    const std::uint8_t* integers = a.x.data;
    const typename Form::Terms* terms = Form::terms(shape, a.x);
    for (std::int64_t unit = 0; unit < shape.units; ++unit) {
      if (expand) expanded.load_unit(shape, at);
      const std::uint8_t* scales = expand ? reinterpret_cast<const std::uint8_t*>(expanded.values) : at;
      const std::uint8_t* zeros = shape.twice_zero == kGroupZeros ? at + Layout::zeros_at(shape) : nullptr;
      at += head_bytes;
      for (std::int64_t s = 0; s < unit_segments; ++s) {
        add(SegmentView<typename Form::Terms>{at, scales, zeros, scale_type, integers, terms, rows,
                                              results.in_memory()},
            results);
        at += segment_bytes;
        integers += integer_bytes;
        terms += rows;
      }
    }
    finite &= a.y_type == Element::kFloat16 ? results.template store<std::uint16_t>(a, block)
                                            : results.template store<float>(a, block);
  }
  return finite;
}

// The same for tiles of rows: calls add(SegmentView) with results in memory.
template <class Policy, class Form, class AddSegment>
bool for_blocks(const Product& a, const AddSegment& add) {
  return for_results<Policy, Form, TileResults<Policy>>(
      a, [&](const SegmentView<typename Form::Terms>& view, TileResults<Policy>&)
             __attribute__((always_inline)) { add(view); });
}

}  // namespace
}  // namespace dualbinary
