#include <climits>

#include "cuda/prefill_launch.h"
#include "cuda/prefill_wgmma.h"

namespace dualbinary::cuda {
namespace {

template <int P, int kTokens>
void launch_shape(const Call& call, const HalfRows& tokens) {
  const simt::Grid grid{static_cast<unsigned>((call.weight.N + kWgmmaRows - 1) / kWgmmaRows),
                        static_cast<unsigned>((tokens.tokens + kTokens - 1) / kTokens)};
  simt::launch(prefill_wgmma_kernel<P, kTokens>, {grid, kWgmmaThreads, WgmmaShape<kTokens>::kSharedBytes, call.stream},
               PrefillArguments{call.weight, tokens, call.x, call.y});
}

void launch(const Call& call) {
  const HalfRows tokens = make_halves(call);
  // Tiles of 256 tokens decode each weight half as often, if there are enough of them for all multiprocessors.
  const std::int64_t row_blocks = (call.weight.N + kWgmmaRows - 1) / kWgmmaRows;
  const bool wide = row_blocks * ((tokens.tokens + 255) / 256) >= call.multiprocessors;
  for_planes(call.weight.P,
             [&]<int P>() { wide ? launch_shape<P, 256>(call, tokens) : launch_shape<P, 128>(call, tokens); });
}

}  // namespace

const Kernel prefill_wgmma = {.name = "prefill_wgmma",
                              .min_rows = 65,
                              .max_rows = INT_MAX / 2,
                              .min_capability = 90,
                              .max_capability = 90,
                              .workspace = halves_workspace,
                              .launch = launch};

}  // namespace dualbinary::cuda
