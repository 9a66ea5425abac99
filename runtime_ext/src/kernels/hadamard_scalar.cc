// SignedHadamard stage by stage, for CPUs that no other kernel fits. What the compiler makes of the loops is the
// baseline of the architecture.
#include <cstdint>

#include "kernels/exact.h"
#include "kernels/hadamard.h"
#include "kernels/inventory.h"

namespace dualbinary {
namespace {

void transform(const HadamardRun& run) {
  const bool f32 = run.type == Element::kFloat32;
  for (std::int64_t at = 0; at < run.count; at += run.block_size) {
    const std::int8_t* signs = run.signs + at;
    float* work = f32 ? static_cast<float*>(run.y) + at : run.work;
    for (std::int64_t i = 0; i < run.block_size; ++i) {
      const auto x = static_cast<float>(load_element(run.x, run.type, at + i));
      work[i] = x * (run.inverse ? run.scale : static_cast<float>(signs[i]) * run.scale);
    }
    for (std::int64_t apart = 1; apart < run.block_size; apart *= 2) {
      for (std::int64_t block = 0; block < run.block_size; block += 2 * apart) {
        for (std::int64_t i = block; i < block + apart; ++i) {
          const float a = work[i];
          const float b = work[i + apart];
          work[i] = a + b;
          work[i + apart] = a - b;
        }
      }
    }
    if (f32 && !run.inverse) continue;
    for (std::int64_t i = 0; i < run.block_size; ++i) {
      const float y = run.inverse ? work[i] * static_cast<float>(signs[i]) : work[i];
      store_element(run.y, run.type, at + i, y);
    }
  }
}

}  // namespace

constinit const HadamardKernel hadamard_scalar = {"hadamard_scalar", Isa::kScalar, transform};

}  // namespace dualbinary
