// One product by each matrix instruction, with its fragments filled and read as simt.h describes them: the first thing
// to run on new hardware, and a test of the emulation. In test builds alone (cmake/cuda.cmake).
//
//   const char* dualbinary_cuda_probe(const char* instruction, const void* a, const void* b, void* d, void* stream)
//
// enqueues d [rows, columns] = a [rows, K] times the transpose of b [columns, K], all in memory of the current device
// and without gaps, and returns NULL or a message. `instruction` and its rows, columns and K:
//
//   mma_b1            16,   8, 128   bits, lowest first in words; d int32
//   mma_u8 signed     16,   8,  32   a uint8, b int8; d int32
//   mma_u8 unsigned   16,   8,  32   a uint8, b uint8; d int32
//   mma_f16           16,   8,  16   float16; d float32
//   wgmma             64, 128,  64   float16; d float32
//
// Addresses are multiples of 16. Where the device lacks the instruction (mma_b1 from 10.0 on, wgmma outside of 9.0) d
// is not what it should be.
#include <string>
#include <string_view>

#include "capi/dualbinary.h"
#include "capi/guarded.h"
#include "cuda/simt/simt.h"

namespace dualbinary::cuda {
namespace {

constexpr int kThreads = 128;  // a warpgroup; the instructions of a warp are done by the first of four

// A row-major [rows, K], B column-major [columns, K] and D [rows, columns], all in words of the instruction's elements.
struct Probe {
  const std::uint32_t* a;
  const std::uint32_t* b;
  std::uint32_t* d;
};

template <class T>
DUALBINARY_DEVICE void store_fragment(std::uint32_t* d, int columns, const T (&fragment)[4]) {
  const int lane = simt::thread() % simt::kLanes;
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + 8 * (i / 2);
    reinterpret_cast<T*>(d)[row * columns + 2 * (lane % 4) + i % 2] = fragment[i];
  }
}

DUALBINARY_GLOBAL(kThreads, 1)
probe_b1(Probe p) {
  if (simt::thread() >= simt::kLanes) return;
  const int r = simt::thread() / 4;
  const int t = simt::thread() % 4;
  int d[4] = {};
  simt::mma_b1(d, p.a[4 * r + t], p.a[4 * (r + 8) + t], p.b[4 * r + t]);
  store_fragment(p.d, 8, d);
}

template <bool kSigned>
DUALBINARY_GLOBAL(kThreads, 1)
probe_u8(Probe p) {
  if (simt::thread() >= simt::kLanes) return;
  const int r = simt::thread() / 4;
  const int t = simt::thread() % 4;
  const std::uint32_t a[4] = {p.a[8 * r + t], p.a[8 * (r + 8) + t], p.a[8 * r + 4 + t], p.a[8 * (r + 8) + 4 + t]};
  int d[4] = {};
  simt::mma_u8<kSigned>(d, a, p.b[8 * r + t], p.b[8 * r + 4 + t]);
  store_fragment(p.d, 8, d);
}

// A fragment of 16 float16 values of rows r and r + 8 of a matrix with eight words a row.
DUALBINARY_DEVICE void load_f16(const std::uint32_t* from, int r, int t, std::uint32_t (&a)[4]) {
  a[0] = from[8 * r + t];
  a[1] = from[8 * (r + 8) + t];
  a[2] = from[8 * r + 4 + t];
  a[3] = from[8 * (r + 8) + 4 + t];
}

// B comes by asynchronous copies and load_matrices.
DUALBINARY_GLOBAL(kThreads, 1)
probe_f16(Probe p) {
  if (simt::thread() >= simt::kLanes) return;
  const int lane = simt::thread();
  std::uint8_t* shared = simt::shared_memory();
  // Eight rows of 32 bytes, twice, as the instruction reads four matrices.
  simt::copy_async(shared + 16 * lane, p.b + 4 * (lane % 16), true);
  simt::commit_copies();
  simt::wait_copies<0>();
  simt::sync_warp();
  std::uint32_t b[4];
  simt::load_matrices(b, shared + 32 * (lane % 8) + 16 * (lane / 8 % 2) + 256 * (lane / 16));
  std::uint32_t a[4];
  load_f16(p.a, lane / 4, lane % 4, a);
  float d[4] = {};
  simt::mma_f16(d, a, b[0], b[1]);
  store_fragment(p.d, 8, d);
}

constexpr int kWgmmaTokens = 128;
constexpr int kWgmmaK = 64;

// 64 rows, 128 columns, K = 64: four instructions over lines of 128 bytes.
DUALBINARY_GLOBAL(kThreads, 1)
probe_wgmma(Probe p) {
  std::uint8_t* shared = simt::shared_memory();
  shared += (1024 - simt::misalignment(shared, 1024)) % 1024;
  for (int i = simt::thread(); i < kWgmmaTokens * 8; i += kThreads) {
    const int token = i / 8;
    simt::copy_async(shared + 128 * token + 16 * (i % 8 ^ token % 8), p.b + 4 * i, true);
  }
  simt::commit_copies();
  simt::wait_copies<0>();
  const int lane = simt::thread() % simt::kLanes;
  const int warp = simt::thread() / simt::kLanes;
  std::uint32_t a[kWgmmaK / 16][4];
  for (int step = 0; step < kWgmmaK / 16; ++step) {
    for (int i = 0; i < 4; ++i) {
      const int row = 16 * warp + lane / 4 + 8 * (i % 2);
      a[step][i] = p.a[row * (kWgmmaK / 2) + 8 * step + 4 * (i / 2) + lane % 4];
      simt::pin(a[step][i]);
    }
  }
  simt::publish_shared();
  simt::sync_block();
  simt::wgmma_fence();
  float d[kWgmmaTokens / 2];
  DUALBINARY_UNROLL
  for (int step = 0; step < kWgmmaK / 16; ++step) {
    simt::wgmma<kWgmmaTokens>(d, a[step], shared + 32 * step, step > 0);
  }
  simt::wgmma_commit();
  simt::wgmma_wait<0>();
  DUALBINARY_UNROLL
  for (int block = 0; block < kWgmmaTokens / 8; ++block) {
    const float fragment[4] = {d[4 * block], d[4 * block + 1], d[4 * block + 2], d[4 * block + 3]};
    store_fragment(p.d + 16 * warp * kWgmmaTokens + 8 * block, kWgmmaTokens, fragment);
  }
}

constexpr unsigned kSharedBytes = 1024 + kWgmmaTokens * 128;

}  // namespace
}  // namespace dualbinary::cuda

extern "C" DUALBINARY_API const char* dualbinary_cuda_probe(const char* name, const void* a, const void* b, void* d,
                                                            void* stream) {
  using namespace dualbinary;
  using namespace dualbinary::cuda;
  return capi::guarded("out of device memory", [&] {
    const std::string_view instruction = name;
    const Probe p{static_cast<const std::uint32_t*>(a), static_cast<const std::uint32_t*>(b),
                  static_cast<std::uint32_t*>(d)};
    const simt::Launch shape{{1}, kThreads, kSharedBytes, stream};
    if (instruction == "mma_b1") {
      simt::launch(probe_b1, shape, p);
    } else if (instruction == "mma_u8 signed") {
      simt::launch(probe_u8<true>, shape, p);
    } else if (instruction == "mma_u8 unsigned") {
      simt::launch(probe_u8<false>, shape, p);
    } else if (instruction == "mma_f16") {
      simt::launch(probe_f16, shape, p);
    } else if (instruction == "wgmma") {
      simt::launch(probe_wgmma, shape, p);
    } else {
      capi::require(false, "instruction '" + std::string(instruction) + "' is unknown");
    }
  });
}
