#include "core/block_phases.h"

#include <algorithm>
#include <thread>
#include <utility>

namespace dualbinary {
namespace {

// Pieces of a product for each thread, at most: a piece begins with weights that no prefetch has asked for, and the
// last one is what the other threads wait for.
constexpr std::int64_t kPiecesOfThread = 2;
// Of the work that Tile::multiply_tasks() finds worth a task, as many pieces: no loop has to be handed out for them.
constexpr std::int64_t kPiecesOfTask = 8;

}  // namespace

std::int64_t block_threads() {
  static const std::int64_t threads = std::clamp<std::int64_t>(std::thread::hardware_concurrency(), 1, kMaxTasks);
  return threads;
}

Phase prepare_phase(Tile& tile, std::function<void(std::int64_t row)> write_row) {
  return {tile.rows(), [&tile, write_row = std::move(write_row)](std::int64_t row) {
            write_row(row);
            tile.prepare(row);
          }};
}

Phase multiply_phase(Tile& tile, std::int64_t N, std::function<void(std::int64_t begin, std::int64_t count)> after) {
  const std::int64_t blocks = tile.blocks();
  const std::int64_t wanted =
      std::clamp<std::int64_t>(tile.multiply_tasks() * kPiecesOfTask, 1, kPiecesOfThread * block_threads());
  const std::int64_t pieces = std::min(blocks, wanted);
  return {pieces, [&tile, N, blocks, pieces, after = std::move(after)](std::int64_t piece) {
            const std::int64_t begin = blocks * piece / pieces;
            const std::int64_t end = blocks * (piece + 1) / pieces;
            tile.multiply(begin, end);
            const std::int64_t first = begin * tile.block_outputs();
            if (after) after(first, std::min(N, end * tile.block_outputs()) - first);
          }};
}

const float* Rows::floats(std::int64_t row, float* scratch) const {
  const void* data = static_cast<const std::uint8_t*>(x.data) + offset(row);
  if (x.type == Element::kFloat32) return static_cast<const float*>(data);
  kernel.load(data, x.type, width, scratch);
  return scratch;
}

}  // namespace dualbinary
