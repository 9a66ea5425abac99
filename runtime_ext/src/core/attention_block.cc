#include "core/attention_block.h"

#include <algorithm>
#include <array>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "core/block_phases.h"
#include "core/memory.h"

namespace dualbinary {
namespace {

constexpr Element kFloats = Element::kFloat32;

// A call of all rows, and the phases of some of them.
class BlockRun {
 public:
  BlockRun(const AttentionBlock& block, const AttentionCall& call, const Activations& x, void* y);
  void run(const ParallelFor& parallel);

 private:
  const ElementwiseKernel& elementwise() const { return block_.attention.elementwise; }
  std::int64_t tile_rows_of(const Weight& weight) const;
  void append_in(std::vector<Phase>& phases, std::int64_t first, std::int64_t rows);
  void append_out(std::vector<Phase>& phases, std::int64_t first, std::int64_t rows);
  void append_rows(std::vector<Phase>& phases, std::function<void(std::int64_t)> body) const;
  void write_sum(std::int64_t row, std::int64_t begin, std::int64_t count, const float* bias) const;

  const AttentionBlock& block_;
  AttentionCall call_;
  std::int64_t rows_;   // B * S
  std::int64_t width_;  // of query, key and value
  std::int64_t heads_;  // h D
  std::int64_t H_;      // of X and Y
  Rows x_;
  Rows y_;  // its type and width; Y itself is written
  void* out_;
  Scratch floats_;
  float* qkv_;      // [rows, width]
  float* context_;  // [rows, h D]
  float* result_;   // [rows, H]
  float* stream_;   // [rows, H], of X and then of the sum
  std::optional<Scratch> scratch_;
  std::uint8_t* prepared_ = nullptr;  // of a tile of either product, in scratch_
  std::optional<Tile> tile_in_;
  std::optional<Tile> tile_out_;
};

BlockRun::BlockRun(const AttentionBlock& block, const AttentionCall& call, const Activations& x, void* y)
    : block_(block),
      call_(call),
      rows_(call.batch * call.new_tokens),
      width_(block.attention.width()),
      heads_(block.attention.num_heads * block.attention.head_size),
      H_(block.qkv != nullptr ? block.qkv->shape().K : width_),
      x_{block.attention.elementwise, x, H_},
      y_{block.attention.elementwise, {y, x.type}, block.o != nullptr ? H_ : heads_},
      out_(y),
      floats_(static_cast<std::size_t>(rows_ * (width_ + heads_ + (block.o != nullptr ? 2 * H_ : 0))) * sizeof(float)),
      qkv_(reinterpret_cast<float*>(floats_.data())),
      context_(qkv_ + rows_ * width_),
      result_(context_ + rows_ * heads_),
      stream_(result_ + rows_ * H_) {
  call_.qkv = qkv_;
  call_.out = context_;
  if (block.qkv == nullptr) return;
  const std::int64_t rows = std::max(tile_rows_of(*block.qkv), tile_rows_of(*block.o));
  const std::size_t bytes = std::max(Tile::prepared_bytes(*block.qkv, block.qkv->kernel_for(rows_), rows),
                                     Tile::prepared_bytes(*block.o, block.o->kernel_for(rows_), rows));
  prepared_ = scratch_.emplace(bytes).data();
}

// Rows of a tile, all of equal size: a short last one would read all weights for little work.
std::int64_t BlockRun::tile_rows_of(const Weight& weight) const {
  const std::int64_t most = max_tile_rows(weight, rows_);
  const std::int64_t tiles = (rows_ + most - 1) / most;
  return (rows_ + tiles - 1) / tiles;
}

void BlockRun::append_rows(std::vector<Phase>& phases, std::function<void(std::int64_t)> body) const {
  phases.push_back({rows_, std::move(body)});
}

// X, or its norm, times qkv, for rows [first, first + rows).
void BlockRun::append_in(std::vector<Phase>& phases, std::int64_t first, std::int64_t rows) {
  const float* bias = block_.qkv_bias;
  Tile& tile = tile_in_.emplace(*block_.qkv, block_.qkv->kernel_for(rows_), Activations{stream_ + first * H_, kFloats},
                                rows, qkv_ + first * width_, prepared_);
  phases.push_back(prepare_phase(tile, [this, first](std::int64_t row) {
    float* to = stream_ + (first + row) * H_;
    const float* stream = x_.floats(first + row, to);
    if (block_.norm != nullptr) {
      elementwise().rms_norm(stream, block_.norm, H_, block_.epsilon, to);
    } else if (stream != to) {
      elementwise().load(stream, kFloats, H_, to);
    }
  }));
  std::function<void(std::int64_t, std::int64_t)> add_bias;
  if (bias != nullptr) {
    add_bias = [this, first, rows, bias](std::int64_t begin, std::int64_t count) {
      for (std::int64_t row = first; row < first + rows; ++row) {
        float* at = qkv_ + row * width_ + begin;
        elementwise().add(nullptr, at, bias + begin, count, kFloats, at);
      }
    };
  }
  phases.push_back(multiply_phase(tile, width_, std::move(add_bias)));
}

// Y = X + result + bias, numbers [begin, begin + count) of a row.
void BlockRun::write_sum(std::int64_t row, std::int64_t begin, std::int64_t count, const float* bias) const {
  const std::size_t at = x_.offset(row) + static_cast<std::size_t>(begin) * (x_.x.type == Element::kFloat16 ? 2 : 4);
  const void* stream = static_cast<const std::uint8_t*>(x_.x.data) + at;
  const auto* floats = static_cast<const float*>(stream);
  if (x_.x.type != kFloats) {
    float* loaded = stream_ + row * H_ + begin;  // what the norm gave is not needed any more
    elementwise().load(stream, x_.x.type, count, loaded);
    floats = loaded;
  }
  elementwise().add(floats, result_ + row * H_ + begin, bias, count, x_.x.type, static_cast<std::uint8_t*>(out_) + at);
}

// What attention gave times o, and the residual sum, for rows [first, first + rows).
void BlockRun::append_out(std::vector<Phase>& phases, std::int64_t first, std::int64_t rows) {
  const float* bias = block_.o_bias;
  Tile& tile =
      tile_out_.emplace(*block_.o, block_.o->kernel_for(rows_), Activations{context_ + first * heads_, kFloats}, rows,
                        result_ + first * H_, prepared_);
  phases.push_back(prepare_phase(tile, [](std::int64_t) {}));
  if (block_.post_norm == nullptr) {
    phases.push_back(multiply_phase(tile, H_, [this, first, rows, bias](std::int64_t begin, std::int64_t count) {
      for (std::int64_t row = first; row < first + rows; ++row) {
        write_sum(row, begin, count, bias != nullptr ? bias + begin : nullptr);
      }
    }));
    return;
  }
  phases.push_back(multiply_phase(tile, H_, nullptr));
  phases.push_back({rows, [this, first, bias](std::int64_t i) {
                      float* result = result_ + (first + i) * H_;
                      if (bias != nullptr) elementwise().add(nullptr, result, bias, H_, kFloats, result);
                      elementwise().rms_norm(result, block_.post_norm, H_, block_.epsilon, result);
                      write_sum(first + i, 0, H_, nullptr);
                    }});
}

void BlockRun::run(const ParallelFor& parallel) {
  std::vector<Phase> phases;
  const auto flush = [&] {
    run_phases(phases, block_threads(), parallel);
    phases.clear();
  };
  if (block_.qkv == nullptr) {
    append_rows(phases, [this](std::int64_t row) {
      float* to = qkv_ + row * width_;
      const float* from = x_.floats(row, to);
      if (from != to) elementwise().load(from, kFloats, width_, to);
    });
  } else {
    const std::int64_t tile = tile_rows_of(*block_.qkv);
    for (std::int64_t first = 0; first < rows_; first += tile) {
      if (first > 0) flush();  // the tile and its memory are taken anew
      append_in(phases, first, std::min(tile, rows_ - first));
    }
  }
  const AttentionWork work(call_);
  work.append_phases(phases);
  if (block_.o == nullptr) {
    append_rows(phases, [this](std::int64_t row) {
      elementwise().add(nullptr, context_ + row * heads_, nullptr, heads_, x_.x.type,
                        static_cast<std::uint8_t*>(out_) + y_.offset(row));
    });
    return flush();
  }
  const std::int64_t tile = tile_rows_of(*block_.o);
  for (std::int64_t first = 0; first < rows_; first += tile) {
    if (first > 0) flush();
    append_out(phases, first, std::min(tile, rows_ - first));
  }
  flush();
}

}  // namespace

void run_attention(const AttentionBlock& block, const AttentionCall& call, const Activations& x, void* y,
                   const ParallelFor& parallel) {
  if (call.batch * call.new_tokens == 0) {
    // Nothing to compute; but the cache has to become the next one.
    std::vector<Phase> phases;
    const AttentionWork work(call);
    work.append_phases(phases);
    return run_phases(phases, block_threads(), parallel);
  }
  BlockRun(block, call, x, y).run(parallel);
}

}  // namespace dualbinary
