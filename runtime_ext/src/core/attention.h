// DualBinaryAttention's part between its products: norms and rotation of heads, the cache, softmax, values. See
// contract/op.toml for what it computes, and attention_block.h for the block.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/phases.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/kernel.h"

namespace dualbinary {

// What a node says of its attention, checked.
struct Attention {
  std::int64_t num_heads;     // h
  std::int64_t kv_num_heads;  // g, which divides h
  std::int64_t head_size;     // D
  float scale;
  float softcap;        // 0: none
  std::int64_t window;  // keys that a query sees; 0: all
  bool interleaved;
  float epsilon;
  const AttentionKernel& kernel;
  const ElementwiseKernel& elementwise;
  const float* q_norm = nullptr;  // [D], or null
  const float* k_norm = nullptr;  // [D], or null

  std::int64_t width() const { return (num_heads + 2 * kv_num_heads) * head_size; }  // of query, key and value
};

// Bytes of a token and head in the cache.
std::int64_t cache_row_bytes(CacheType type, std::int64_t head_size);

// Rotary tables [positions, half] of `type`; without data there is no rotation.
struct RotaryTables {
  const void* cos = nullptr;
  const void* sin = nullptr;
  Element type = Element::kFloat32;
  std::int64_t positions = 0;
  std::int64_t half = 0;
};

// Keys or values: what there was, [B, g, past_room, E], and what there will be, [B, g, present_room, E]. Both may be
// one buffer, of one size.
struct Cache {
  const std::uint8_t* past;
  std::uint8_t* present;
};

// One call, of B sequences with S new tokens each.
struct AttentionCall {
  const Attention& attention;
  std::int64_t batch;             // B
  std::int64_t new_tokens;        // S
  const std::int32_t* last_keys;  // [B]
  std::int64_t longest;
  RotaryTables tables;
  Cache keys;
  Cache values;
  CacheType cache_type;
  std::int64_t past_room;
  std::int64_t present_room;
  float* qkv;  // [B * S, width]; queries and keys are normed and rotated in place
  float* out;  // [B * S, h D]
};

// Throws std::invalid_argument where lengths do not fit the cache or the tables; nothing has been written then.
void check_call(const AttentionCall& call);

// The work of a call that has been checked, as phases, which refer to this object. Results do not depend on the number
// of threads.
class AttentionWork {
 public:
  // Throws std::bad_alloc.
  explicit AttentionWork(const AttentionCall& call);
  ~AttentionWork();
  AttentionWork(const AttentionWork&) = delete;
  AttentionWork& operator=(const AttentionWork&) = delete;

  void append_phases(std::vector<Phase>& phases) const;

 private:
  struct Plan;
  std::unique_ptr<Plan> plan_;
};

}  // namespace dualbinary
