#include <climits>

#include "cuda/activations_f16.h"
#include "cuda/for_planes.h"
#include "cuda/inventory.h"
#include "cuda/prefill_mma.h"

namespace dualbinary::cuda {
namespace {

// With many tokens a warp has two row tiles, if its registers hold their words and levels: at three planes they do not.
template <int P>
constexpr int kRowTilesOfWarp = P <= 2 ? 2 : 1;

template <class Shape>
int blocks_of(const Call& call) {
  return (call.weight.N + Shape::kRows - 1) / Shape::kRows;
}

template <int P, int kTokens, int kRowTiles, int kSplit>
void launch_shape(const Call& call, const F16Rows& tokens) {
  using Shape = MmaShape<P, kTokens, kRowTiles, kSplit>;
  const simt::Grid grid{static_cast<unsigned>(blocks_of<Shape>(call)),
                        static_cast<unsigned>((tokens.tokens + kTokens - 1) / kTokens)};
  simt::launch(prefill_mma_kernel<P, kTokens, kRowTiles, kSplit>, {grid, kMmaThreads, Shape::kSharedBytes, call.stream},
               PrefillArguments{call.weight, tokens, call.x, call.y});
}

void launch(const Call& call) {
  const F16Rows tokens = make_f16_rows(call);
  for_planes(call.weight.P, [&]<int P>() {
    if (tokens.tokens <= 32) return launch_shape<P, 32, 1, 4>(call, tokens);
    if (tokens.tokens <= 64) return launch_shape<P, 64, 1, 2>(call, tokens);
    // Large thread blocks once there are enough of them: a weight is then dequantized for 128 tokens instead of 64.
    using Large = MmaShape<P, 128, kRowTilesOfWarp<P>, 1>;
    const std::int64_t blocks = std::int64_t{blocks_of<Large>(call)} * ((tokens.tokens + 127) / 128);
    if (blocks < call.multiprocessors) return launch_shape<P, 64, 1, 2>(call, tokens);
    launch_shape<P, 128, kRowTilesOfWarp<P>, 1>(call, tokens);
  });
}

}  // namespace

const CudaKernel prefill_mma = {.name = "prefill_mma",
                                .max_rows = INT_MAX / 2,
                                .suits = [](const Call&) { return true; },
                                .workspace = f16_workspace,
                                .launch = launch};

}  // namespace dualbinary::cuda
