// The attention kernels for any instruction set that has F32x16, sixteen float32 lanes. The file that includes this one
// says how many accumulators its registers hold: kScoreRows x kScoreVectors and kValueRows x kValueVectors.
#pragma once

#include <cstdint>

#include "kernels/attention.h"
#include "kernels/attention_rows-inl.h"
#include "kernels/vector-inl.h"

namespace dualbinary {
namespace {

constexpr float kNoScore = -__builtin_inff();

[[gnu::always_inline]] inline F32x16 capped(F32x16 score, float softcap) {
  // softcap * tanh(u) = softcap - 2 softcap / (1 + e^2u)
  const F32x16 e = exp_of(F32x16::multiply(score, F32x16::set(2 / softcap)));
  const F32x16 part = F32x16::divide(F32x16::set(2 * softcap), F32x16::add(e, F32x16::set(1)));
  return F32x16::subtract(F32x16::set(softcap), part);
}

// Scores of one row, of keys from `begin` on, become e^(score - largest), zeros for keys that it does not see. `count`
// is a multiple of sixteen; `largest` is that of before at first, and rises. Returns the sum.
[[gnu::always_inline]] inline float softmax(const Queries& queries, std::int64_t r, std::int64_t begin,
                                            std::int64_t count, float* scores, float& largest) {
  const std::int64_t low = queries.first[r] > begin ? queries.first[r] - begin : 0;
  const std::int64_t high = queries.last[r] + 1 - begin < count ? queries.last[r] + 1 - begin : count;
  if (queries.softcap != 0) {
    for (std::int64_t i = 0; i < count; i += kLanes)
      capped(F32x16::load(scores + i), queries.softcap).store(scores + i);
  }
  for (std::int64_t i = 0; i < low && i < count; ++i) scores[i] = kNoScore;
  for (std::int64_t i = high > 0 ? high : 0; i < count; ++i) scores[i] = kNoScore;
  F32x16 most = F32x16::set(largest);
  for (std::int64_t i = 0; i < count; i += kLanes) most = F32x16::max(most, F32x16::load(scores + i));
  largest = most.reduce_max();
  if (largest == kNoScore) {
    float nothing = 0;  // or NaN, where a score is: comparisons may have lost it
    for (std::int64_t i = 0; i < count; ++i) {
      if (scores[i] != scores[i]) nothing = largest = scores[i];
      scores[i] = 0;
    }
    return nothing;
  }
  const F32x16 shift = F32x16::set(largest);
  F32x16 sum = F32x16::set(0);
  for (std::int64_t i = 0; i < count; i += kLanes) {
    const F32x16 p = exp_of(F32x16::subtract(F32x16::load(scores + i), shift));
    p.store(scores + i);
    sum = F32x16::add(sum, p);
  }
  // exp_of() takes -inf for the smallest normal number: what is not seen is 0.
  float extra = 0;
  for (std::int64_t i = 0; i < low && i < count; ++i) {
    extra += scores[i];
    scores[i] = 0;
  }
  for (std::int64_t i = high > 0 ? high : 0; i < count; ++i) {
    extra += scores[i];
    scores[i] = 0;
  }
  return sum.reduce_add() - extra;
}

// Scores of kRows rows with the numbers of kKeys keys, whose rows are `row_bytes` apart, without the factors of these.
// kWhole: head_size is a multiple of sixteen.
template <int kRows, int kKeys, bool kWhole, class T>
[[gnu::always_inline]] inline void dot(const float* q, std::int64_t size, const std::uint8_t* key,
                                       std::int64_t row_bytes, float* scores, std::int64_t stride) {
  F32x16 sums[kRows][kKeys];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int k = 0; k < kKeys; ++k) sums[r][k] = F32x16::set(0);
  }
  for (std::int64_t i = 0; i < size; i += kLanes) {
    const std::int64_t left = kWhole ? kLanes : size - i;
    F32x16 keys[kKeys];
#pragma GCC unroll 4
    for (int k = 0; k < kKeys; ++k) keys[k] = load_some(reinterpret_cast<const T*>(key + k * row_bytes) + i, left);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const F32x16 x = load_some(q + r * size + i, left);
#pragma GCC unroll 4
      for (int k = 0; k < kKeys; ++k) sums[r][k] = F32x16::multiply_add(x, keys[k], sums[r][k]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    if constexpr (kKeys == 4) {
      F32x16::reduce_add_four(sums[r], scores + r * stride);
    } else {
      // In the same order: a score is the same whether or not more keys follow.
      F32x16 four[4];
      for (int k = 0; k < 4; ++k) four[k] = k < kKeys ? sums[r][k] : F32x16::set(0);
      float results[4];
      F32x16::reduce_add_four(four, results);
      for (int k = 0; k < kKeys; ++k) scores[r * stride + k] = results[k];
    }
  }
}

// Scores [kRows, stride] of kRows rows with all of `count` keys, likewise.
template <int kRows, bool kWhole, class T>
[[gnu::always_inline]] inline void dots(const float* q, std::int64_t size, const std::uint8_t* keys,
                                        std::int64_t row_bytes, std::int64_t count, float* scores,
                                        std::int64_t stride) {
  std::int64_t k = 0;
  for (; k + 4 <= count; k += 4) {
    dot<kRows, 4, kWhole, T>(q, size, keys + k * row_bytes, row_bytes, scores + k, stride);
  }
  for (; k < count; ++k) dot<kRows, 1, kWhole, T>(q, size, keys + k * row_bytes, row_bytes, scores + k, stride);
}

// sums [kRows, size] += p [kRows, count] times values, for kVectors vectors from number i on, the last of them of
// `left` numbers.
template <int kRows, int kVectors, bool kWhole, class T>
[[gnu::always_inline]] inline void add_values(const float* p, std::int64_t p_stride, const std::uint8_t* values,
                                              std::int64_t row_bytes, std::int64_t count, std::int64_t size,
                                              std::int64_t i, float* sums) {
  const std::int64_t left = kWhole ? kLanes : size - i;
  F32x16 acc[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) acc[r][v] = load_some(sums + r * size + i + v * kLanes, left);
  }
  for (std::int64_t k = 0; k < count; ++k) {
    const auto* value = reinterpret_cast<const T*>(values + k * row_bytes) + i;
    F32x16 row[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) row[v] = load_some(value + v * kLanes, left);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const F32x16 weight = F32x16::set(p[r * p_stride + k]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) acc[r][v] = F32x16::multiply_add(weight, row[v], acc[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) store_some(acc[r][v], sums + r * size + i + v * kLanes, left);
  }
}

// The same for any number of rows.
template <int kVectors, bool kWhole, class T>
[[gnu::always_inline]] inline void add_columns(const float* p, std::int64_t p_stride, std::int64_t rows,
                                               const std::uint8_t* values, std::int64_t row_bytes, std::int64_t count,
                                               std::int64_t size, std::int64_t i, float* sums) {
  for (; rows >= kValueRows; rows -= kValueRows, p += kValueRows * p_stride, sums += kValueRows * size) {
    add_values<kValueRows, kVectors, kWhole, T>(p, p_stride, values, row_bytes, count, size, i, sums);
  }
  if constexpr (kValueRows > 3) {
    if (rows == 3) return add_values<3, kVectors, kWhole, T>(p, p_stride, values, row_bytes, count, size, i, sums);
  }
  if constexpr (kValueRows > 2) {
    if (rows == 2) return add_values<2, kVectors, kWhole, T>(p, p_stride, values, row_bytes, count, size, i, sums);
  }
  if (rows == 1) add_values<1, kVectors, kWhole, T>(p, p_stride, values, row_bytes, count, size, i, sums);
}

// sums [rows, size] += p [rows, count] times values [count, size]. Called from several places, and long: not inlined.
template <class T>
[[gnu::noinline]] void add_all_values(const float* p, std::int64_t p_stride, std::int64_t rows,
                                      const std::uint8_t* values, std::int64_t row_bytes, std::int64_t count,
                                      std::int64_t size, float* sums) {
  std::int64_t i = 0;
  for (; i + kValueVectors * kLanes <= size; i += kValueVectors * kLanes) {
    add_columns<kValueVectors, true, T>(p, p_stride, rows, values, row_bytes, count, size, i, sums);
  }
  for (; i + kLanes <= size; i += kLanes) {
    add_columns<1, true, T>(p, p_stride, rows, values, row_bytes, count, size, i, sums);
  }
  if (i < size) add_columns<1, false, T>(p, p_stride, rows, values, row_bytes, count, size, i, sums);
}

// The same for rows [r, r + rows) of the queries, each with what it sees of the `count` values from key `begin` on:
// those that it does not see may be no numbers, and 0 * NaN is none. Order and bits are those of a row alone.
template <class T>
void add_seen_values(const Queries& queries, std::int64_t r, std::int64_t rows, const float* p, std::int64_t p_stride,
                     const std::uint8_t* values, std::int64_t row_bytes, std::int64_t begin, std::int64_t count,
                     float* sums) {
  const std::int64_t size = queries.head_size;
  const auto place = [&](std::int64_t key) { return key < begin ? 0 : key - begin < count ? key - begin : count; };
  const auto add = [&](std::int64_t j, std::int64_t some, std::int64_t low, std::int64_t high) {
    if (low >= high) return;
    add_all_values<T>(p + j * p_stride + low, p_stride, some, values + low * row_bytes, row_bytes, high - low, size,
                      sums + j * size);
  };
  std::int64_t low = 0;  // of what all of them see
  std::int64_t high = count;
  for (std::int64_t j = r; j < r + rows; ++j) {
    if (low < place(queries.first[j])) low = place(queries.first[j]);
    if (high > place(queries.last[j] + 1)) high = place(queries.last[j] + 1);
  }
  if (low > high) low = high = count;  // nothing: each row for itself
  for (std::int64_t j = 0; j < rows; ++j) {
    const std::int64_t end = place(queries.last[r + j] + 1);
    add(j, 1, place(queries.first[r + j]), low < end ? low : end);
  }
  add(0, rows, low, high);
  for (std::int64_t j = 0; j < rows; ++j) {
    const std::int64_t first = place(queries.first[r + j]);
    add(j, 1, first < high ? high : first, place(queries.last[r + j] + 1));
  }
}

[[gnu::always_inline]] inline void multiply(const float* factors, std::int64_t count, float* scores) {
  for (std::int64_t k = 0; k < count; k += kLanes) {
    F32x16::multiply(F32x16::load(scores + k), F32x16::load(factors + k)).store(scores + k);
  }
}

template <bool kWhole, class T>
void few_of(const Queries& queries, const CachedRows& cache, std::int64_t begin, std::int64_t end,
            const Partial& result) {
  constexpr bool kHasFactors = sizeof(T) == 1;
  const std::int64_t size = queries.head_size;
  float scores[4][kKeySegment];
  float key_factors[kHasFactors ? kKeySegment : 1];
  float value_factors[kHasFactors ? kKeySegment : 1];
  const std::int64_t count = end - begin;
  const std::int64_t padded = (count + kLanes - 1) / kLanes * kLanes;
  const std::uint8_t* keys = cache.keys + begin * cache.row_bytes;
  const std::uint8_t* values = cache.values + begin * cache.row_bytes;
  if constexpr (kHasFactors) {
    read_factors<T>(keys, cache.row_bytes, size, count, key_factors);
    read_factors<T>(values, cache.row_bytes, size, count, value_factors);
  }
  for (std::int64_t r = 0; r < queries.rows; r += 4) {
    const std::int64_t rows = queries.rows - r < 4 ? queries.rows - r : 4;
    const float* q = queries.q + r * size;
    if (rows == 4) dots<4, kWhole, T>(q, size, keys, cache.row_bytes, count, scores[0], kKeySegment);
    if (rows == 3) dots<3, kWhole, T>(q, size, keys, cache.row_bytes, count, scores[0], kKeySegment);
    if (rows == 2) dots<2, kWhole, T>(q, size, keys, cache.row_bytes, count, scores[0], kKeySegment);
    if (rows == 1) dots<1, kWhole, T>(q, size, keys, cache.row_bytes, count, scores[0], kKeySegment);
    for (std::int64_t j = 0; j < rows; ++j) {
      for (std::int64_t k = count; k < padded; ++k) scores[j][k] = kNoScore;
      if constexpr (kHasFactors) multiply(key_factors, padded, scores[j]);
      result.largest[r + j] = kNoScore;
      // Padded keys lie behind what any row sees.
      result.total[r + j] = softmax(queries, r + j, begin, padded, scores[j], result.largest[r + j]);
      if constexpr (kHasFactors) multiply(value_factors, padded, scores[j]);
      for (std::int64_t i = 0; i < size; ++i) result.sums[(r + j) * size + i] = 0;
    }
    add_seen_values<T>(queries, r, rows, scores[0], kKeySegment, values, cache.row_bytes, begin, count,
                       result.sums + r * size);
  }
}

template <class T>
void few_of(const Queries& queries, const CachedRows& cache, std::int64_t begin, std::int64_t end,
            const Partial& result) {
  queries.head_size % kLanes == 0 ? few_of<true, T>(queries, cache, begin, end, result)
                                  : few_of<false, T>(queries, cache, begin, end, result);
}

void few_any(const Queries& queries, const CachedRows& cache, std::int64_t begin, std::int64_t end,
             const Partial& result) {
  switch (cache.type) {
    case CacheType::kFloat32:
      return few_of<float>(queries, cache, begin, end, result);
    case CacheType::kFloat16:
      return few_of<std::uint16_t>(queries, cache, begin, end, result);
    case CacheType::kInt8:
      return few_of<std::int8_t>(queries, cache, begin, end, result);
  }
}

template <class T>
void pack_of(const CachedRows& cache, std::int64_t size, std::int64_t begin, std::int64_t end, float* keys,
             float* values) {
  float row[kLanes];
  for (std::int64_t k = 0; k < kKeyTile; ++k) {
    if (begin + k >= end) {
      for (std::int64_t i = 0; i < size; ++i) keys[i * kKeyTile + k] = values[k * size + i] = 0;
      continue;
    }
    const std::uint8_t* key = cache.keys + (begin + k) * cache.row_bytes;
    const std::uint8_t* value = cache.values + (begin + k) * cache.row_bytes;
    const F32x16 key_factor = F32x16::set(factor_of<T>(key, size));
    const F32x16 value_factor = F32x16::set(factor_of<T>(value, size));
    for (std::int64_t i = 0; i < size; i += kLanes) {
      const std::int64_t left = size - i < kLanes ? size - i : kLanes;
      F32x16::multiply(load_some(reinterpret_cast<const T*>(key) + i, left), key_factor).store(row);
      for (std::int64_t j = 0; j < left; ++j) keys[(i + j) * kKeyTile + k] = row[j];
      const F32x16 v = F32x16::multiply(load_some(reinterpret_cast<const T*>(value) + i, left), value_factor);
      store_some(v, values + k * size + i, left);
    }
  }
}

void pack_any(const CachedRows& cache, std::int64_t size, std::int64_t begin, std::int64_t end, float* keys,
              float* values) {
  switch (cache.type) {
    case CacheType::kFloat32:
      return pack_of<float>(cache, size, begin, end, keys, values);
    case CacheType::kFloat16:
      return pack_of<std::uint16_t>(cache, size, begin, end, keys, values);
    case CacheType::kInt8:
      return pack_of<std::int8_t>(cache, size, begin, end, keys, values);
  }
}

// Scores of kRows rows with all keys of a packed tile.
template <int kRows>
[[gnu::always_inline]] inline void score_rows(const float* q, std::int64_t size, const float* keys, float* scores) {
  for (std::int64_t k = 0; k < kKeyTile; k += kScoreVectors * kLanes) {
    F32x16 acc[kRows][kScoreVectors];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kScoreVectors; ++v) acc[r][v] = F32x16::set(0);
    }
    for (std::int64_t i = 0; i < size; ++i) {
      F32x16 key[kScoreVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kScoreVectors; ++v) key[v] = F32x16::load(keys + i * kKeyTile + k + v * kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const F32x16 x = F32x16::set(q[r * size + i]);
#pragma GCC unroll 8
        for (int v = 0; v < kScoreVectors; ++v) acc[r][v] = F32x16::multiply_add(x, key[v], acc[r][v]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kScoreVectors; ++v) acc[r][v].store(scores + r * kKeyTile + k + v * kLanes);
    }
  }
}

void many_any(const Queries& queries, const float* keys, const float* values, std::int64_t begin, std::int64_t end,
              const Partial& result) {
  const std::int64_t size = queries.head_size;
  float scores[kMaxQueryRows * kKeyTile];
  std::int64_t r = 0;
  for (; r + kScoreRows <= queries.rows; r += kScoreRows) {
    score_rows<kScoreRows>(queries.q + r * size, size, keys, scores + r * kKeyTile);
  }
  for (; r < queries.rows; ++r) score_rows<1>(queries.q + r * size, size, keys, scores + r * kKeyTile);
  for (r = 0; r < queries.rows; ++r) {
    const float before = result.largest[r];
    const float sum = softmax(queries, r, begin, kKeyTile, scores + r * kKeyTile, result.largest[r]);
    if (result.largest[r] == kNoScore) continue;
    if (before != result.largest[r]) {
      float shift[kLanes] = {before - result.largest[r]};
      float factors[kLanes];
      exp_of(F32x16::load(shift)).store(factors);
      const float factor = before == kNoScore ? 0 : factors[0];
      result.total[r] *= factor;
      float* sums = result.sums + r * size;
      for (std::int64_t i = 0; i < size; ++i) sums[i] *= factor;
    }
    result.total[r] += sum;
  }
  const auto* packed = reinterpret_cast<const std::uint8_t*>(values);
  const std::int64_t row_bytes = size * static_cast<std::int64_t>(sizeof(float));
  bool all = true;
  for (r = 0; r < queries.rows; ++r) all = all && queries.first[r] <= begin && queries.last[r] + 1 >= end;
  if (all) return add_all_values<float>(scores, kKeyTile, r, packed, row_bytes, end - begin, size, result.sums);
  for (r = 0; r < queries.rows; r += kValueRows) {
    const std::int64_t rows = queries.rows - r < kValueRows ? queries.rows - r : kValueRows;
    add_seen_values<float>(queries, r, rows, scores + r * kKeyTile, kKeyTile, packed, row_bytes, begin, end - begin,
                           result.sums + r * size);
  }
}

}  // namespace
}  // namespace dualbinary
