// Weight::multiply: tiles over M, tables once for each tile, threads over N, and the exact kernel for what tables
// cannot represent.
#include <algorithm>
#include <array>
#include <bit>
#include <exception>
#include <mutex>
#include <vector>

#include "contract.h"
#include "core/memory.h"
#include "core/weight.h"
#include "kernels/exact.h"

namespace dualbinary {
namespace {

// Tables of one tile, at most: a part of a 1 MiB L2 cache, the smallest among servers of today, so that weights stream
// beside them. 32 rows of 4096 inputs at level 4 just fit.
constexpr std::int64_t kTableBudget = 640 << 10;

// Work for one task, at least. Handing out a parallel loop costs 2 to 3 us with spinning workers and up to 14 us
// without. Table kernels take about 5 us for 2^20 plane bits, whether one row passes over them or four; the exact
// kernel takes 10 us for 2^13 plane bits times rows, and building tables 5 us for 2^14 inputs.
constexpr std::int64_t kTableWork = 1 << 20;
constexpr std::int64_t kTableRows = 4;
constexpr std::int64_t kExactWork = 1 << 13;
constexpr std::int64_t kBuildWork = 1 << 14;

// Tasks of one loop, at most. The host does not say how many threads it has; this balances 16 and costs 4 us at worst.
constexpr std::int64_t kMaxTasks = 64;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Splits [0, items) into runs of equal length, about `tasks` of them, and calls body(begin, end) for each, in parallel
// where there is more than one. An exception in a body reaches the caller after the loop: it must not cross the host's
// frames.
template <class Body>
void for_runs(std::int64_t items, std::int64_t tasks, const ParallelFor& parallel, const Body& body) {
  // A power of two, so that 2, 4 or 8 threads get equal shares: of 7 tasks one of two threads would wait for the
  // fourth.
  tasks = static_cast<std::int64_t>(
      std::bit_ceil(static_cast<std::uint64_t>(std::clamp<std::int64_t>(tasks, 1, kMaxTasks))));
  tasks = std::min(items, tasks);
  if (tasks <= 1 || parallel.run == nullptr) return body(std::int64_t{0}, items);
  struct Loop {
    const Body& body;
    std::int64_t items;
    std::int64_t tasks;
    std::mutex mutex;
    std::exception_ptr failure;
  } loop{body, items, tasks, {}, {}};
  const auto task = [](void* data, std::size_t index) {
    auto& l = *static_cast<Loop*>(data);
    const auto i = static_cast<std::int64_t>(index);
    try {
      l.body(l.items * i / l.tasks, l.items * (i + 1) / l.tasks);
    } catch (...) {
      const std::lock_guard lock(l.mutex);
      l.failure = std::current_exception();
    }
  };
  parallel.run(parallel.pool, task, &loop, static_cast<std::size_t>(tasks));
  if (loop.failure) std::rethrow_exception(loop.failure);
}

// One tile of rows of X and the same rows of Y.
struct Tile {
  const Weight& weight;
  const Kernel& kernel;
  Activations x;  // starts at the tile's first row
  std::int64_t rows;
  std::uint8_t* y;
  const ParallelFor& parallel;

  std::size_t element_bytes() const { return x.type == Element::kFloat16 ? 2 : 4; }
  void* y_row(std::int64_t m) const { return y + static_cast<std::size_t>(m * weight.shape().N) * element_bytes(); }
  std::int64_t plane_bits() const { return weight.shape().planes * weight.shape().N * weight.shape().K; }
};

// Outputs [n_begin, n_begin + count) of row m by the exact kernel; all of them, or only those that came out infinite or
// NaN. `part` and `stored` are a weight whose first outputs are these.
void exact_row(const Tile& tile, std::int64_t m, const Shape& part, const Stored& stored, std::int64_t n_begin,
               std::int64_t count, bool only_special) {
  std::vector<double> row(static_cast<std::size_t>(part.groups * part.group_size));
  exact_load_row(part, tile.x, m, row.data());
  auto* y = static_cast<std::uint8_t*>(tile.y_row(m)) + static_cast<std::size_t>(n_begin) * tile.element_bytes();
  for (std::int64_t n = 0; n < count; ++n) {
    if (only_special && all_finite(y, tile.x.type, n, n + 1)) continue;
    exact_multiply(part, stored, row.data(), y, tile.x.type, n, n + 1);
  }
}

void multiply_exact(const Tile& tile) {
  const Weight& weight = tile.weight;
  for_runs(weight.shape().N, tile.plane_bits() * tile.rows / kExactWork, tile.parallel,
           [&](std::int64_t begin, std::int64_t end) {
             std::vector<double> row(static_cast<std::size_t>(weight.shape().groups * weight.shape().group_size));
             for (std::int64_t m = 0; m < tile.rows; ++m) {
               exact_load_row(weight.shape(), tile.x, m, row.data());
               exact_multiply(weight.shape(), weight.stored(), row.data(), tile.y_row(m), tile.x.type, begin, end);
             }
           });
}

// What a product by tables leaves to the exact kernel in blocks [begin, end): rows that tables cannot represent, and
// results that are infinite or NaN. Their weights come from the packed form, the only one that every layout has.
void exact_blocks(const Tile& tile, const bool* regular, bool finite, std::int64_t begin, std::int64_t end) {
  const Kernel& kernel = tile.kernel;
  Shape part = tile.weight.shape();
  const std::int64_t N = part.N;
  part.layout = contract::kLayoutPlain;
  part.N = kernel.block_rows;
  const bool any = std::any_of(regular, regular + tile.rows, [](bool is_regular) { return !is_regular; });
  if (finite && !any) return;
  std::vector<std::uint8_t> planes;
  std::vector<std::uint8_t> scales;
  for (std::int64_t block = begin; block < end; ++block) {
    const std::int64_t n_begin = block * kernel.block_rows;
    const std::int64_t count = std::min<std::int64_t>(N - n_begin, kernel.block_rows);
    bool unpacked = false;
    for (std::int64_t m = 0; m < tile.rows; ++m) {
      // Float sums overflowed on the way, or rightly so; the exact kernel tells which.
      const bool special = regular[m] && !finite && !all_finite(tile.y_row(m), tile.x.type, n_begin, n_begin + count);
      if (regular[m] && !special) continue;
      if (!unpacked) {
        planes.resize(static_cast<std::size_t>(planes_bytes(part)));
        scales.resize(static_cast<std::size_t>(scales_bytes(part)));
        kernel.unpack_block(part, tile.weight.packed() + static_cast<std::size_t>(block) * kernel.block_bytes(part),
                            {planes.data(), scales.data()});
        check_factors(part, scales.data(), n_begin);  // no load has looked at those of a file of blocks
        unpacked = true;
      }
      exact_row(tile, m, part, {planes.data(), scales.data()}, n_begin, count, special);
    }
  }
}

void multiply_tables(const Tile& tile, const Tables& tables) {
  const Shape& shape = tile.weight.shape();
  const Kernel& kernel = tile.kernel;
  std::array<bool, kMaxTileRows> regular{};
  for_runs(tile.rows, tile.rows * shape.K / kBuildWork, tile.parallel, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t m = begin; m < end; ++m) {
      regular[static_cast<std::size_t>(m)] = kernel.build_tables(shape, tile.x, m, tables);
    }
  });
  const std::int64_t blocks = ceil_div(shape.N, kernel.block_rows);
  const std::int64_t work = tile.plane_bits() * ceil_div(tile.rows, kTableRows);
  for_runs(blocks, work / kTableWork, tile.parallel, [&](std::int64_t begin, std::int64_t end) {
    const bool finite = kernel.multiply({&shape, tile.weight.packed(), tables, tile.y, tile.x.type, begin, end});
    exact_blocks(tile, regular.data(), finite, begin, end);
  });
}

}  // namespace

void Weight::multiply(const Activations& x, std::int64_t rows, void* y, const ParallelFor& parallel) const {
  const Kernel& kernel = many_rows_ != nullptr && rows >= many_rows_->min_rows ? *many_rows_ : kernel_;
  const std::int64_t entry_bytes = shape_.segments * shape_.segment_size * kernel.row_bytes_per_input;
  const std::int64_t row_bytes = entry_bytes + shape_.segments * static_cast<std::int64_t>(sizeof(Segment));
  const std::int64_t most_rows = std::clamp<std::int64_t>(kTableBudget / row_bytes, 1, kMaxTileRows);
  // Tiles of equal size: a short last one would read all weights for little work.
  const std::int64_t tiles = std::max<std::int64_t>(1, ceil_div(rows, most_rows));
  const std::int64_t tile_rows = std::max<std::int64_t>(1, ceil_div(rows, tiles));
  const std::int64_t paired_rows = tile_rows + tile_rows % 2;
  const Scratch scratch(static_cast<std::size_t>(paired_rows * row_bytes));
  const std::size_t element = x.type == Element::kFloat16 ? 2 : 4;
  for (std::int64_t m = 0; m < rows; m += tile_rows) {
    const std::int64_t count = std::min(tile_rows, rows - m);
    const Tile tile{
        *this,
        kernel,
        {static_cast<const std::uint8_t*>(x.data) + static_cast<std::size_t>(m * shape_.K) * element, x.type},
        count,
        static_cast<std::uint8_t*>(y) + static_cast<std::size_t>(m * shape_.N) * element,
        parallel};
    if (kernel.multiply == nullptr) {
      multiply_exact(tile);
      continue;
    }
    auto* segments = reinterpret_cast<Segment*>(scratch.data() + paired_rows * entry_bytes);
    multiply_tables(tile, {scratch.data(), segments, count});
  }
}

}  // namespace dualbinary
