// The instructions that the kernels are written in: one name for each, with two implementations.
//
//   ptx.cuh      for nvcc: PTX and intrinsics
//   emulated.h   for any C++ compiler: lane by lane on the CPU, so that the kernels themselves are tested without a GPU
//
// A kernel is a function marked DUALBINARY_GLOBAL that uses nothing else of CUDA. The lanes of a warp must
// reach its collective instructions together, and all threads of a thread block must reach sync_block().
//
// Fragments of the matrix instructions, for lane l with r = l / 4 and t = l % 4 (PTX ISA, "Matrix Fragments"); D is
// always {row r, column 2t}, {r, 2t+1}, {r+8, 2t}, {r+8, 2t+1}:
//
//   mma_b1   m16n8k128   A: {r, bits 32t..}, {r+8, the same};  B: {bits 32t.., column r}
//   mma_u8   m16n8k32    A: {r, bytes 4t..}, {r+8, the same}, {r, bytes 16+4t..}, {r+8, the same};
//                        B: {bytes 4t.., column r}, {bytes 16+4t.., column r}
//   mma_f16  m16n8k16    A: {r, values 2t, 2t+1}, {r+8, the same}, {r, values 2t+8, 2t+9}, {r+8, the same};
//                        B: {values 2t, 2t+1, column r}, {values 2t+8, 2t+9, column r}
//   wgmma    m64nTk16    A: as mma_f16, warp w of four has rows 16w to 16w+15;  B: from shared memory
#pragma once

#include <cstdint>

namespace dualbinary::simt {

inline constexpr int kLanes = 32;

// Vectors that are loaded and stored by one instruction.
struct alignas(8) Words2 {
  std::uint32_t w[2];
};
struct alignas(16) Words4 {
  std::uint32_t w[4];
};

struct Grid {
  unsigned x = 1;
  unsigned y = 1;
};

// Shape of a launch: thread blocks, threads of each, bytes of dynamic shared memory, cudaStream_t.
struct Launch {
  Grid grid;
  unsigned threads;
  unsigned shared_bytes;
  void* stream;
};

}  // namespace dualbinary::simt

#if defined(__CUDACC__)
#include "cuda/simt/ptx.cuh"
#else
#include "cuda/simt/emulated.h"
#endif

namespace dualbinary::simt {

// An array in shared or in global memory, for code that reads either; indices count elements of what is read.
struct SharedArray {
  SharedAddress at;

  DUALBINARY_DEVICE std::uint16_t u16(int i) const { return load_u16(at + 2 * i); }
  DUALBINARY_DEVICE std::uint32_t word(int i) const { return load_word(at + 4 * i); }
  DUALBINARY_DEVICE Words2 words2(int i) const { return load_words2(at + 8 * i); }
  DUALBINARY_DEVICE SharedArray after(int bytes) const { return {at + bytes}; }
};

struct GlobalArray {
  const std::uint8_t* at;

  DUALBINARY_DEVICE std::uint16_t u16(int i) const { return reinterpret_cast<const std::uint16_t*>(at)[i]; }
  DUALBINARY_DEVICE std::uint32_t word(int i) const { return reinterpret_cast<const std::uint32_t*>(at)[i]; }
  DUALBINARY_DEVICE Words2 words2(int i) const { return reinterpret_cast<const Words2*>(at)[i]; }
  DUALBINARY_DEVICE GlobalArray after(std::int64_t bytes) const { return {at + bytes}; }
};

}  // namespace dualbinary::simt
