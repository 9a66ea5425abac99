#include "core/mlp.h"

#include <algorithm>
#include <array>

#include "core/block_phases.h"
#include "core/memory.h"

namespace dualbinary {
namespace {

// Memory of a tile of `rows` rows, float32 but for what is prepared.
struct Buffers {
  Buffers(const Mlp& mlp, std::int64_t rows, std::int64_t all_rows)
      : H(mlp.down.shape().N),
        I(mlp.down.shape().K),
        floats(static_cast<std::size_t>(rows * (2 * H + 3 * I)) * sizeof(float)),
        prepared(std::max(Tile::prepared_bytes(mlp.gate_up, mlp.gate_up.kernel_for(all_rows), rows),
                          Tile::prepared_bytes(mlp.down, mlp.down.kernel_for(all_rows), rows))),
        normed(reinterpret_cast<float*>(floats.data())),
        hidden(normed + rows * H),
        activated(hidden + rows * 2 * I),
        result(activated + rows * I) {}

  std::int64_t H;
  std::int64_t I;
  Scratch floats;
  Scratch prepared;  // of the one product, then of the other
  float* normed;     // [rows, H]
  float* hidden;     // [rows, 2 I]
  float* activated;  // [rows, I]
  float* result;     // [rows, H]
};

// Rows [first, first + rows).
void run_tile(const Mlp& mlp, const Rows& x, std::int64_t first, std::int64_t rows, std::int64_t all_rows, void* y,
              Buffers& at, const ParallelFor& parallel) {
  const std::int64_t H = at.H;
  const std::int64_t I = at.I;
  const ElementwiseKernel& kernel = mlp.elementwise;
  Tile gate_up(mlp.gate_up, mlp.gate_up.kernel_for(all_rows), {at.normed, Element::kFloat32}, rows, at.hidden,
               at.prepared.data());
  Tile down(mlp.down, mlp.down.kernel_for(all_rows), {at.activated, Element::kFloat32}, rows, at.result,
            at.prepared.data());
  const auto y_at = [&](std::int64_t row) { return static_cast<std::uint8_t*>(y) + x.offset(first + row); };
  const std::int64_t element = x.x.type == Element::kFloat16 ? 2 : 4;

  const auto norm = [&](std::int64_t row) {
    float* normed = at.normed + row * H;
    const float* stream = x.floats(first + row, normed);
    if (mlp.norm != nullptr) {
      kernel.rms_norm(stream, mlp.norm, H, mlp.epsilon, normed);
    } else if (stream != normed) {
      kernel.load(stream, Element::kFloat32, H, normed);
    }
  };
  const auto activate = [&](std::int64_t row) {
    const float* gate = at.hidden + row * 2 * I;
    kernel.gate(mlp.activation, gate, gate + I, mlp.gate_bias, mlp.gate_bias == nullptr ? nullptr : mlp.gate_bias + I,
                I, at.activated + row * I);
  };
  // The sum of outputs [begin, begin + count): the stream goes through Y where it is no float32.
  const auto add = [&](std::int64_t row, std::int64_t begin, std::int64_t count) {
    const auto* stream = static_cast<const std::uint8_t*>(x.x.data) + x.offset(first + row) + begin * element;
    const float* floats = reinterpret_cast<const float*>(stream);
    if (element == 2) {
      // Of what this piece alone writes of `normed`, which nobody reads any more.
      float* loaded = at.normed + row * H + begin;
      kernel.load(stream, x.x.type, count, loaded);
      floats = loaded;
    }
    kernel.add(floats, at.result + row * H + begin,
               mlp.post_norm == nullptr && mlp.down_bias ? mlp.down_bias + begin : nullptr, count, x.x.type,
               y_at(row) + begin * element);
  };
  const auto add_piece = [&](std::int64_t begin, std::int64_t count) {
    for (std::int64_t row = 0; row < rows; ++row) add(row, begin, count);
  };
  const auto post_norm = [&](std::int64_t row) {
    float* result = at.result + row * H;
    if (mlp.down_bias != nullptr) kernel.add(nullptr, result, mlp.down_bias, H, Element::kFloat32, result);
    kernel.rms_norm(result, mlp.post_norm, H, mlp.epsilon, result);
    add(row, 0, H);
  };

  const bool post = mlp.post_norm != nullptr;
  const std::array<Phase, 5> phases = {
      prepare_phase(gate_up, norm),
      multiply_phase(gate_up, 2 * I, nullptr),
      prepare_phase(down, activate),
      multiply_phase(down, H, post ? nullptr : std::function<void(std::int64_t, std::int64_t)>(add_piece)),
      Phase{rows, post_norm},
  };
  run_phases(std::span(phases).first(post ? 5 : 4), block_threads(), parallel);
}

}  // namespace

void run_mlp(const Mlp& mlp, const Activations& x, std::int64_t rows, void* y, const ParallelFor& parallel) {
  const Rows stream{mlp.elementwise, x, mlp.down.shape().N};
  const std::int64_t most = std::min(max_tile_rows(mlp.gate_up, rows), max_tile_rows(mlp.down, rows));
  const std::int64_t tiles = std::max<std::int64_t>(1, (rows + most - 1) / most);
  const std::int64_t tile_rows = std::max<std::int64_t>(1, (rows + tiles - 1) / tiles);
  Buffers buffers(mlp, tile_rows, rows);
  for (std::int64_t m = 0; m < rows; m += tile_rows) {
    run_tile(mlp, stream, m, std::min(tile_rows, rows - m), rows, y, buffers, parallel);
  }
}

}  // namespace dualbinary
