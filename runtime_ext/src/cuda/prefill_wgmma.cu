#include <climits>

#include "cuda/activations_f16.h"
#include "cuda/for_planes.h"
#include "cuda/inventory.h"
#include "cuda/prefill_wgmma.h"

namespace dualbinary::cuda {
namespace {

template <int P, int kTokens>
void launch_shape(const Call& call, const F16Rows& tokens) {
  const simt::Grid grid{static_cast<unsigned>((call.weight.N + kWgmmaRows - 1) / kWgmmaRows),
                        static_cast<unsigned>((tokens.tokens + kTokens - 1) / kTokens)};
  simt::launch(prefill_wgmma_kernel<P, kTokens>, {grid, kWgmmaThreads, WgmmaShape<kTokens>::kSharedBytes, call.stream},
               PrefillArguments{call.weight, tokens, call.x, call.y});
}

std::int64_t blocks_of(const Call& call, int tokens) {
  const std::int64_t row_blocks = (call.weight.N + kWgmmaRows - 1) / kWgmmaRows;
  return row_blocks * ((tokens_of(call) + tokens - 1) / tokens);
}

// Its thread blocks are large: where they leave a quarter of the multiprocessors idle, the small ones of mma.sync are
// better.
bool suits(const Call& call) { return 4 * blocks_of(call, 128) >= 3 * call.multiprocessors; }

void launch(const Call& call) {
  const F16Rows tokens = make_f16_rows(call);
  // A round of thread blocks of 256 tokens, which dequantize each weight half as often, takes about 1.6 rounds of those
  // of 128.
  const auto rounds = [&](int size) {
    return (blocks_of(call, size) + call.multiprocessors - 1) / call.multiprocessors;
  };
  const bool wide = 8 * rounds(256) <= 5 * rounds(128);
  for_planes(call.weight.P,
             [&]<int P>() { wide ? launch_shape<P, 256>(call, tokens) : launch_shape<P, 128>(call, tokens); });
}

}  // namespace

const CudaKernel prefill_wgmma = {
    .name = "prefill_wgmma", .max_rows = INT_MAX / 2, .suits = suits, .workspace = f16_workspace, .launch = launch};

}  // namespace dualbinary::cuda
