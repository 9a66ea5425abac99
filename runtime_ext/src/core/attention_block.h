// DualBinaryAttention: an attention block, with its products or without, in one parallel loop where it has few rows.
#pragma once

#include <cstdint>

#include "core/attention.h"
#include "core/parallel.h"
#include "core/weight.h"

namespace dualbinary {

// A block whose node has been checked. Both products are there or neither. Vectors are null where the node has no such
// input.
struct AttentionBlock {
  const Attention& attention;
  const Weight* qkv;  // [(h + 2 g) D, H], or null: X is query, key and value
  const Weight* o;    // [H, h D], or null: Y is what attention gives
  float epsilon;
  const float* norm = nullptr;       // [H]
  const float* qkv_bias = nullptr;   // [(h + 2 g) D]
  const float* o_bias = nullptr;     // [H]
  const float* post_norm = nullptr;  // [H]
};

// `call` without its buffers qkv and out, which are made here; it has passed check_call(). Y [B * S, H or h D] of
// x.type must not overlap anything else. Safe to call from several threads at once. Throws as multiply() does.
void run_attention(const AttentionBlock& block, const AttentionCall& call, const Activations& x, void* y,
                   const ParallelFor& parallel);

}  // namespace dualbinary
