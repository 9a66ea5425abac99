// The kernel of SignedHadamard for any instruction set that has F32x16, sixteen float32 lanes.
//
// The first four stages are inside of a vector, the others combine vectors; two of these at a time, so that a block
// goes through registers half as often. A block of float32 is transformed in place, in Y.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/hadamard.h"

namespace dualbinary {
namespace {

// The stages inside of a vector, as far as a block reaches.
[[gnu::always_inline]] inline F32x16 inner_stages(F32x16 x, std::int64_t block_size) {
  x = x.butterfly<1>();
  if (block_size > 2) x = x.butterfly<2>();
  if (block_size > 4) x = x.butterfly<4>();
  if (block_size > 8) x = x.butterfly<8>();
  return x;
}

// The stages of vectors 1 and 2 apart.
[[gnu::always_inline]] inline void two_stages(F32x16 (&v)[4]) {
  const F32x16 a = F32x16::add(v[0], v[1]);
  const F32x16 b = F32x16::subtract(v[0], v[1]);
  const F32x16 c = F32x16::add(v[2], v[3]);
  const F32x16 d = F32x16::subtract(v[2], v[3]);
  v[0] = F32x16::add(a, c);
  v[1] = F32x16::add(b, d);
  v[2] = F32x16::subtract(a, c);
  v[3] = F32x16::subtract(b, d);
}

// Sixteen inputs from place i of the run, scaled, after the stages inside of a vector.
template <class T, bool kInverse>
[[gnu::always_inline]] inline F32x16 begin_vector(const HadamardRun& run, std::int64_t i) {
  const F32x16 x = F32x16::load(static_cast<const T*>(run.x) + i);
  F32x16 factor = F32x16::set(run.scale);
  if constexpr (!kInverse) factor = F32x16::multiply(F32x16::load(run.signs + i), factor);
  return inner_stages(F32x16::multiply(x, factor), run.block_size);
}

template <class T, bool kInverse>
[[gnu::always_inline]] inline void end_vector(const HadamardRun& run, std::int64_t i, F32x16 x) {
  if constexpr (kInverse) x = F32x16::multiply(x, F32x16::load(run.signs + i));
  x.store(static_cast<T*>(run.y) + i);
}

// Blocks that are smaller than a vector.
template <class T, bool kInverse>
void transform_small(const HadamardRun& run) {
  const std::int64_t whole = run.count / kHadamardLanes * kHadamardLanes;
  for (std::int64_t i = 0; i < whole; i += kHadamardLanes) {
    end_vector<T, kInverse>(run, i, begin_vector<T, kInverse>(run, i));
  }
  if (whole == run.count) return;
  T x[kHadamardLanes] = {};
  T y[kHadamardLanes];
  std::int8_t signs[kHadamardLanes] = {};
  const auto left = static_cast<std::size_t>(run.count - whole);
  std::memcpy(x, static_cast<const std::uint8_t*>(run.x) + static_cast<std::size_t>(whole) * sizeof(T),
              left * sizeof(T));
  std::memcpy(signs, run.signs + whole, left);
  HadamardRun rest = run;
  rest.x = x;
  rest.signs = signs;
  rest.y = y;
  end_vector<T, kInverse>(rest, 0, begin_vector<T, kInverse>(rest, 0));
  for (std::int64_t i = whole; i < run.count; ++i) static_cast<T*>(run.y)[i] = y[i - whole];
}

// Loads the block at place `at`, and does its first stages. Returns the inputs that the next stage has to bring
// together.
template <class T, bool kInverse>
[[gnu::always_inline]] inline std::int64_t begin_block(const HadamardRun& run, std::int64_t at, float* work) {
  constexpr std::int64_t kFour = 4 * kHadamardLanes;
  if (run.block_size < kFour) {
    for (std::int64_t i = 0; i < run.block_size; i += kHadamardLanes) {
      begin_vector<T, kInverse>(run, at + i).store(work + i);
    }
    return kHadamardLanes;
  }
  for (std::int64_t i = 0; i < run.block_size; i += kFour) {
    F32x16 v[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) v[j] = begin_vector<T, kInverse>(run, at + i + j * kHadamardLanes);
    two_stages(v);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) v[j].store(work + i + j * kHadamardLanes);
  }
  return kFour;
}

// The stages that bring inputs `apart` and more together.
inline void outer_stages(float* work, std::int64_t block_size, std::int64_t apart) {
  for (; 2 * apart < block_size; apart *= 4) {
    for (std::int64_t block = 0; block < block_size; block += 4 * apart) {
      for (std::int64_t i = block; i < block + apart; i += kHadamardLanes) {
        F32x16 v[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) v[j] = F32x16::load(work + i + j * apart);
        two_stages(v);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) v[j].store(work + i + j * apart);
      }
    }
  }
  if (apart >= block_size) return;
  for (std::int64_t i = 0; i < apart; i += kHadamardLanes) {
    const F32x16 a = F32x16::load(work + i);
    const F32x16 b = F32x16::load(work + i + apart);
    F32x16::add(a, b).store(work + i);
    F32x16::subtract(a, b).store(work + i + apart);
  }
}

template <class T, bool kInverse>
void transform(const HadamardRun& run) {
  if (run.block_size < kHadamardLanes) return transform_small<T, kInverse>(run);
  constexpr bool kInPlace = sizeof(T) == sizeof(float);
  for (std::int64_t at = 0; at < run.count; at += run.block_size) {
    float* work = kInPlace ? static_cast<float*>(run.y) + at : run.work;
    outer_stages(work, run.block_size, begin_block<T, kInverse>(run, at, work));
    if constexpr (kInPlace && !kInverse) continue;
    for (std::int64_t i = 0; i < run.block_size; i += kHadamardLanes) {
      end_vector<T, kInverse>(run, at + i, F32x16::load(work + i));
    }
  }
}

void transform_any(const HadamardRun& run) {
  if (run.type == Element::kFloat16) {
    run.inverse ? transform<std::uint16_t, true>(run) : transform<std::uint16_t, false>(run);
  } else {
    run.inverse ? transform<float, true>(run) : transform<float, false>(run);
  }
}

}  // namespace
}  // namespace dualbinary
