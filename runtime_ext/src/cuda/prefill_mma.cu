#include <climits>

#include "cuda/prefill_launch.h"
#include "cuda/prefill_mma.h"

namespace dualbinary::cuda {
namespace {

// At 1024 outputs a grid of 32 tokens' blocks has 32 of them, and one of 128 tokens' has 8: few tokens need small
// tiles.
template <int P, int kTokens, int kRowTiles, int kSplit>
void launch_shape(const Call& call, const HalfRows& tokens) {
  using Shape = MmaShape<P, kTokens, kRowTiles, kSplit>;
  const simt::Grid grid{static_cast<unsigned>((call.weight.N + Shape::kRows - 1) / Shape::kRows),
                        static_cast<unsigned>((tokens.tokens + kTokens - 1) / kTokens)};
  simt::launch(prefill_mma_kernel<P, kTokens, kRowTiles, kSplit>, {grid, kMmaThreads, Shape::kSharedBytes, call.stream},
               PrefillArguments{call.weight, tokens, call.x, call.y});
}

void launch(const Call& call) {
  const HalfRows tokens = make_halves(call);
  for_planes(call.weight.P, [&]<int P>() {
    if (tokens.tokens <= 32) return launch_shape<P, 32, 1, 4>(call, tokens);
    if (tokens.tokens <= 64) return launch_shape<P, 64, 1, 2>(call, tokens);
    launch_shape<P, 128, 2, 1>(call, tokens);
  });
}

}  // namespace

const Kernel prefill_mma = {.name = "prefill_mma",
                            .min_rows = 1,
                            .max_rows = INT_MAX / 2,
                            .min_capability = 80,
                            .max_capability = 129,
                            .workspace = halves_workspace,
                            .launch = launch};

}  // namespace dualbinary::cuda
