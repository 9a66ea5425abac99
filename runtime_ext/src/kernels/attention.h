// Attention over a cache: the plain data that core and kernels exchange. See core/attention.h for who calls what.
//
// A query row is one query head of one token, multiplied by the scale of the scores before. The h / g query heads of a
// key's head are neighbors, so that a key is read once for all of them.
//
// Softmax is taken in pieces: of keys [begin, end) a row has the largest score m, the sum of e^(s - m), and the sum of
// values times e^(s - m). Two pieces are joined by the factors e^(m - larger m). exp() is that of elementwise.h.
//
// This header is included by files that are compiled for one ISA, so it holds no function, as kernel.h does not.
#pragma once

#include <cstdint>

#include "kernels/kernel.h"

namespace dualbinary {

// Numbers of a token and head in the cache. kInt8: head_size numbers, then the float32 that they are multiplied by.
enum class CacheType : std::int32_t { kFloat32 = 0, kFloat16 = 1, kInt8 = 2 };

// Keys in a tile of the kernel for many queries; its packed keys are [head_size, kKeyTile] for each tile.
inline constexpr std::int64_t kKeyTile = 64;
// Keys in a piece of the kernel for few queries, at most.
inline constexpr std::int64_t kKeySegment = 128;
// Query rows of a call, at most: scores of a tile and sums of values then lie in an L2 cache.
inline constexpr std::int64_t kMaxQueryRows = 64;

// Query rows [rows, head_size] and what each sees: keys [first[r], last[r]] of the sequence.
struct Queries {
  const float* q;
  const std::int64_t* first;
  const std::int64_t* last;
  std::int64_t rows;
  std::int64_t head_size;
  float softcap;  // 0: none
};

// The result of a piece for each row: `sums` [rows, head_size] are not divided yet. -inf and zeros where a row sees no
// key.
struct Partial {
  float* largest;  // [rows]
  float* total;    // [rows]
  float* sums;     // [rows, head_size]
};

// Keys and values of one head of one sequence as the cache holds them, `row_bytes` each.
struct CachedRows {
  const std::uint8_t* keys;
  const std::uint8_t* values;
  std::int64_t row_bytes;
  CacheType type;
};

// An entry of the inventory.
struct AttentionKernel {
  const char* name;
  Isa isa;
  // Rotates the first 2 * half numbers of a head: i with i + half, or, interleaved, 2i with 2i + 1.
  void (*rotate)(float* head, const float* cos, const float* sin, std::int64_t half, bool interleaved);
  // Writes a key or value [head_size] into its place in the cache.
  void (*store)(const float* head, std::int64_t head_size, CacheType type, std::uint8_t* row);
  // Keys [begin, end) of the cache, at most kKeySegment, for a few rows.
  void (*few)(const Queries& queries, const CachedRows& cache, std::int64_t begin, std::int64_t end,
              const Partial& result);
  // Packs keys [begin, end) of the cache, at most kKeyTile, and their values as float32 [kKeyTile, head_size]. Keys
  // beyond are zeros.
  void (*pack)(const CachedRows& cache, std::int64_t head_size, std::int64_t begin, std::int64_t end, float* keys,
               float* values);
  // Adds keys [begin, end), which pack() has packed, to the result so far.
  void (*many)(const Queries& queries, const float* keys, const float* values, std::int64_t begin, std::int64_t end,
               const Partial& result);
};

}  // namespace dualbinary
