#include "core/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/memory.h"

namespace dualbinary {
namespace {

// New tokens of a sequence that the kernel for few queries takes, at most: a pass that checks some guesses. Each has
// the bits of a pass of its own, which dualbinary/onnx_files/same_bits.py counts on.
constexpr std::int64_t kFewTokens = 8;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Tables of a file may begin at any byte.
bool is_aligned(const void* floats) { return reinterpret_cast<std::uintptr_t>(floats) % alignof(float) == 0; }

[[noreturn]] void refuse(const std::string& name, const std::string& expected, std::int64_t got) {
  throw std::invalid_argument(name + ": expected " + expected + ", got " + std::to_string(got));
}

}  // namespace

std::int64_t cache_row_bytes(CacheType type, std::int64_t head_size) {
  if (type == CacheType::kInt8) return head_size + static_cast<std::int64_t>(sizeof(float));
  return head_size * (type == CacheType::kFloat16 ? 2 : 4);
}

void check_call(const AttentionCall& call) {
  const std::int64_t S = call.new_tokens;
  if (call.longest < S) refuse("longest", "at least the " + std::to_string(S) + " new tokens", call.longest);
  if (call.longest > call.present_room) {
    refuse("longest", "at most " + std::to_string(call.present_room) + ", the cache's room", call.longest);
  }
  const bool begins = call.longest == S;
  for (std::int64_t b = 0; b < call.batch; ++b) {
    const std::int64_t last = call.last_keys[b];
    const std::int64_t least = begins && S > 0 ? 0 : S - 1;
    if (last < least || last >= call.longest) {
      refuse("last_keys", std::to_string(least) + " to " + std::to_string(call.longest - 1), last);
    }
    if (!begins && last + 1 - S > call.past_room) {
      refuse("last_keys", "at most " + std::to_string(call.past_room + S - 1) + ", by the tokens of past_key", last);
    }
  }
  if (call.tables.cos != nullptr && call.longest > call.tables.positions) {
    refuse("longest", "at most " + std::to_string(call.tables.positions) + ", the rows of cos_table", call.longest);
  }
}

struct AttentionWork::Plan {
  AttentionCall call;
  std::int64_t h, g, D, S, group;
  std::int64_t row_bytes;
  bool few;
  std::int64_t segments;           // of few queries: pieces of the longest sequence
  std::int64_t block_tokens;       // tokens of a piece of many queries
  std::int64_t blocks;             // pieces of a sequence
  std::int64_t tiles;              // packed tiles of the longest sequence
  std::vector<std::int64_t> past;  // [B] tokens before
  Scratch partials;
  Scratch packed;

  explicit Plan(const AttentionCall& c);

  // Keys that tokens [begin, end) of sequence b see, as a range.
  std::int64_t first_key(std::int64_t b, std::int64_t token) const {
    const std::int64_t window = call.attention.window;
    const std::int64_t place = past[static_cast<std::size_t>(b)] + token;
    return window == 0 ? 0 : std::max<std::int64_t>(0, place - window + 1);
  }
  std::int64_t last_key(std::int64_t b, std::int64_t token) const { return past[static_cast<std::size_t>(b)] + token; }

  std::uint8_t* present(const Cache& cache, std::int64_t b, std::int64_t head) const {
    return cache.present + (b * g + head) * call.present_room * row_bytes;
  }
  CachedRows rows(std::int64_t b, std::int64_t head) const {
    return {present(call.keys, b, head), present(call.values, b, head), row_bytes, call.cache_type};
  }
  float* partial(std::int64_t b, std::int64_t head, std::int64_t segment) const {
    const std::int64_t size = S * group * (D + 2);
    return reinterpret_cast<float*>(partials.data()) + ((b * g + head) * segments + segment) * size;
  }
  float* packed_keys(std::int64_t b, std::int64_t head, std::int64_t tile) const {
    return reinterpret_cast<float*>(packed.data()) + ((b * g + head) * tiles + tile) * 2 * D * kKeyTile;
  }

  void begin_token(std::int64_t row) const;
  void copy_past(const Cache& cache, std::int64_t b, std::int64_t head) const;
  void few_piece(std::int64_t piece) const;
  void join_piece(std::int64_t piece) const;
  void pack_piece(std::int64_t piece) const;
  void many_piece(std::int64_t piece) const;
  // Query rows of tokens [token, token + count) for one key's head, and what they see.
  void gather(std::int64_t b, std::int64_t head, std::int64_t token, std::int64_t count, float* q, std::int64_t* first,
              std::int64_t* last) const;
  void finish(std::int64_t b, std::int64_t head, std::int64_t token, std::int64_t count, const float* sums,
              const float* total) const;
};

AttentionWork::Plan::Plan(const AttentionCall& c)
    : call(c),
      h(c.attention.num_heads),
      g(c.attention.kv_num_heads),
      D(c.attention.head_size),
      S(c.new_tokens),
      group(h / g),
      row_bytes(cache_row_bytes(c.cache_type, D)),
      few(S <= kFewTokens),
      segments(ceil_div(c.longest, kKeySegment)),
      block_tokens(std::max<std::int64_t>(1, kMaxQueryRows / group)),
      blocks(ceil_div(S, block_tokens)),
      tiles(ceil_div(c.longest, kKeyTile)),
      partials(few ? static_cast<std::size_t>(c.batch * g * segments * S * group * (D + 2)) * sizeof(float) : 0),
      packed(few ? 0 : static_cast<std::size_t>(c.batch * g * tiles * 2 * D * kKeyTile) * sizeof(float)) {
  for (std::int64_t b = 0; b < call.batch; ++b) {
    past.push_back(call.longest == S ? 0 : call.last_keys[b] + 1 - S);
  }
}

// Norms, rotates and stores what one token brings.
void AttentionWork::Plan::begin_token(std::int64_t row) const {
  const Attention& a = call.attention;
  const std::int64_t b = row / S;
  const std::int64_t place = past[static_cast<std::size_t>(b)] + row % S;
  float* qkv = call.qkv + row * a.width();
  const std::int64_t half = call.tables.half;
  std::vector<float> floats;
  const float* cos = nullptr;
  const float* sin = nullptr;
  if (call.tables.cos != nullptr) {
    const bool f32 = call.tables.type == Element::kFloat32;
    const std::int64_t offset = place * half * (f32 ? 4 : 2);
    const std::uint8_t* rows[] = {static_cast<const std::uint8_t*>(call.tables.cos) + offset,
                                  static_cast<const std::uint8_t*>(call.tables.sin) + offset};
    if (f32 && is_aligned(rows[0]) && is_aligned(rows[1])) {
      cos = reinterpret_cast<const float*>(rows[0]);
      sin = reinterpret_cast<const float*>(rows[1]);
    } else {
      floats.resize(static_cast<std::size_t>(2 * half));
      a.elementwise.load(rows[0], call.tables.type, half, floats.data());
      a.elementwise.load(rows[1], call.tables.type, half, floats.data() + half);
      cos = floats.data();
      sin = floats.data() + half;
    }
  }
  for (std::int64_t head = 0; head < h + g; ++head) {
    float* x = qkv + head * D;
    const float* norm = head < h ? a.q_norm : a.k_norm;
    if (norm != nullptr) a.elementwise.rms_norm(x, norm, D, a.epsilon, x);
    if (cos != nullptr) a.kernel.rotate(x, cos, sin, half, a.interleaved);
    if (head < h) {
      for (std::int64_t i = 0; i < D; ++i) x[i] *= a.scale;
    } else {
      a.kernel.store(x, D, call.cache_type, present(call.keys, b, head - h) + place * row_bytes);
      a.kernel.store(x + g * D, D, call.cache_type, present(call.values, b, head - h) + place * row_bytes);
    }
  }
}

// The tokens before, and zeros behind the new ones, where present is a buffer of its own.
void AttentionWork::Plan::copy_past(const Cache& cache, std::int64_t b, std::int64_t head) const {
  const std::int64_t before = past[static_cast<std::size_t>(b)];
  std::uint8_t* to = present(cache, b, head);
  const std::uint8_t* from = cache.past + (b * g + head) * call.past_room * row_bytes;
  if (before > 0) std::memcpy(to, from, static_cast<std::size_t>(before * row_bytes));
  const std::int64_t used = before + S;
  std::memset(to + used * row_bytes, 0, static_cast<std::size_t>((call.present_room - used) * row_bytes));
}

void AttentionWork::Plan::gather(std::int64_t b, std::int64_t head, std::int64_t token, std::int64_t count, float* q,
                                 std::int64_t* first, std::int64_t* last) const {
  for (std::int64_t t = 0; t < count; ++t) {
    const float* from = call.qkv + (b * S + token + t) * call.attention.width() + head * group * D;
    std::memcpy(q + t * group * D, from, static_cast<std::size_t>(group * D) * sizeof(float));
    for (std::int64_t j = 0; j < group; ++j) {
      first[t * group + j] = first_key(b, token + t);
      last[t * group + j] = last_key(b, token + t);
    }
  }
}

void AttentionWork::Plan::finish(std::int64_t b, std::int64_t head, std::int64_t token, std::int64_t count,
                                 const float* sums, const float* total) const {
  for (std::int64_t t = 0; t < count; ++t) {
    float* out = call.out + ((b * S + token + t) * h + head * group) * D;
    for (std::int64_t j = 0; j < group; ++j) {
      const float inverse = 1 / total[t * group + j];
      for (std::int64_t i = 0; i < D; ++i) out[j * D + i] = sums[(t * group + j) * D + i] * inverse;
    }
  }
}

void AttentionWork::Plan::few_piece(std::int64_t piece) const {
  const std::int64_t segment = piece % segments;
  const std::int64_t head = piece / segments % g;
  const std::int64_t b = piece / segments / g;
  const std::int64_t begin = segment * kKeySegment;
  const std::int64_t end = std::min(last_key(b, S - 1) + 1, begin + kKeySegment);
  const std::int64_t count = S * group;
  float* result = partial(b, head, segment);
  const Partial at{result, result + count, result + 2 * count};
  if (begin >= end || first_key(b, 0) >= end) {
    std::fill(at.largest, at.largest + count, -std::numeric_limits<float>::infinity());
    return;
  }
  std::vector<float> q(static_cast<std::size_t>(count * D));
  std::vector<std::int64_t> seen(static_cast<std::size_t>(2 * count));
  gather(b, head, 0, S, q.data(), seen.data(), seen.data() + count);
  call.attention.kernel.few({q.data(), seen.data(), seen.data() + count, count, D, call.attention.softcap},
                            rows(b, head), begin, end, at);
}

void AttentionWork::Plan::join_piece(std::int64_t piece) const {
  const std::int64_t head = piece % g;
  const std::int64_t b = piece / g;
  const std::int64_t count = S * group;
  float* first = partial(b, head, 0);
  for (std::int64_t r = 0; r < count; ++r) {
    float largest = first[r];
    for (std::int64_t s = 1; s < segments; ++s) largest = std::max(largest, partial(b, head, s)[r]);
    float total = 0;
    float* sums = first + 2 * count + r * D;
    for (std::int64_t s = 0; s < segments; ++s) {
      const float* other = partial(b, head, s);
      const bool nothing = other[r] == -std::numeric_limits<float>::infinity();
      const float factor = nothing ? 0 : std::exp(other[r] - largest);
      const float* from = other + 2 * count + r * D;
      if (s == 0) {
        for (std::int64_t i = 0; i < D; ++i) sums[i] = nothing ? 0 : sums[i] * factor;
      } else if (!nothing) {
        for (std::int64_t i = 0; i < D; ++i) sums[i] += from[i] * factor;
      }
      if (!nothing) total += other[count + r] * factor;
    }
    first[count + r] = total;
  }
  finish(b, head, 0, S, first + 2 * count, first + count);
}

void AttentionWork::Plan::pack_piece(std::int64_t piece) const {
  const std::int64_t tile = piece % tiles;
  const std::int64_t head = piece / tiles % g;
  const std::int64_t b = piece / tiles / g;
  const std::int64_t begin = tile * kKeyTile;
  const std::int64_t end = std::min(last_key(b, S - 1) + 1, begin + kKeyTile);
  if (begin >= end || first_key(b, 0) >= end) return;
  float* keys = packed_keys(b, head, tile);
  call.attention.kernel.pack(rows(b, head), D, begin, end, keys, keys + D * kKeyTile);
}

void AttentionWork::Plan::many_piece(std::int64_t piece) const {
  // The last tokens see most keys: they begin, so that no thread is left with a long piece.
  const std::int64_t block = blocks - 1 - piece / (call.batch * g);
  const std::int64_t head = piece % g;
  const std::int64_t b = piece / g % call.batch;
  const std::int64_t token = block * block_tokens;
  const std::int64_t tokens = std::min(S - token, block_tokens);
  const std::int64_t count = tokens * group;
  std::vector<float> memory(static_cast<std::size_t>(count * (2 * D + 2)));
  std::vector<std::int64_t> seen(static_cast<std::size_t>(2 * count));
  float* q = memory.data();
  float* sums = q + count * D;
  float* total = sums + count * D;
  float* largest = total + count;
  std::fill(largest, largest + count, -std::numeric_limits<float>::infinity());
  gather(b, head, token, tokens, q, seen.data(), seen.data() + count);
  const std::int64_t keys_end = last_key(b, token + tokens - 1) + 1;
  for (std::int64_t r = 0; r < count; r += kMaxQueryRows) {
    const std::int64_t rows = std::min(count - r, kMaxQueryRows);
    const Queries queries{q + r * D, seen.data() + r, seen.data() + count + r, rows, D, call.attention.softcap};
    for (std::int64_t tile = first_key(b, token) / kKeyTile; tile * kKeyTile < keys_end; ++tile) {
      const float* keys = packed_keys(b, head, tile);
      call.attention.kernel.many(queries, keys, keys + D * kKeyTile, tile * kKeyTile,
                                 std::min(keys_end, (tile + 1) * kKeyTile), {largest + r, total + r, sums + r * D});
    }
  }
  finish(b, head, token, tokens, sums, total);
}

AttentionWork::AttentionWork(const AttentionCall& call) : plan_(std::make_unique<Plan>(call)) {}
AttentionWork::~AttentionWork() = default;

void AttentionWork::append_phases(std::vector<Phase>& phases) const {
  const Plan* plan = plan_.get();
  const std::int64_t tokens = plan->call.batch * plan->S;
  const std::int64_t heads = plan->call.batch * plan->g;
  std::vector<const Cache*> copied;  // a host may share the buffer of one and not of the other
  for (const Cache* cache : {&plan->call.keys, &plan->call.values}) {
    if (cache->past != cache->present) copied.push_back(cache);
  }
  if (tokens == 0 && copied.empty()) return;
  const auto copies = static_cast<std::int64_t>(copied.size()) * heads;
  phases.push_back({tokens + copies, [plan, tokens, heads, copied](std::int64_t i) {
                      if (i < tokens) return plan->begin_token(i);
                      const std::int64_t j = i - tokens;
                      const Cache& cache = *copied[static_cast<std::size_t>(j / heads)];
                      plan->copy_past(cache, j % heads / plan->g, j % plan->g);
                    }});
  if (tokens == 0) return;
  if (plan->few) {
    phases.push_back({heads * plan->segments, [plan](std::int64_t i) { plan->few_piece(i); }});
    phases.push_back({heads, [plan](std::int64_t i) { plan->join_piece(i); }});
  } else {
    phases.push_back({heads * plan->tiles, [plan](std::int64_t i) { plan->pack_piece(i); }});
    phases.push_back({heads * plan->blocks, [plan](std::int64_t i) { plan->many_piece(i); }});
  }
}

}  // namespace dualbinary
