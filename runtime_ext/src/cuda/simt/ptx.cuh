// The instructions of simt.h on a GPU.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>

#define DUALBINARY_DEVICE __device__ __forceinline__
#define DUALBINARY_DEVICE_NOINLINE static __device__ __noinline__
#define DUALBINARY_GLOBAL(threads, blocks) static __global__ void __launch_bounds__(threads, blocks)
#define DUALBINARY_HOST_DEVICE __host__ __device__
// Before a kernel's arguments: they stay where they are, even if a function takes them by reference.
#define DUALBINARY_ARGUMENT const __grid_constant__
#define DUALBINARY_UNROLL _Pragma("unroll")
#define DUALBINARY_NO_UNROLL _Pragma("unroll 1")

// Code for the architectures that have the instruction itself; elsewhere a kernel that uses it is empty, and the
// inventory does not choose it.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 1000
#define DUALBINARY_HAS_MMA_B1 1
#endif
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define DUALBINARY_HAS_WGMMA 1
#endif

namespace dualbinary::simt {

DUALBINARY_DEVICE int thread() { return static_cast<int>(threadIdx.x); }
DUALBINARY_DEVICE int block_x() { return static_cast<int>(blockIdx.x); }
DUALBINARY_DEVICE int block_y() { return static_cast<int>(blockIdx.y); }
DUALBINARY_DEVICE int blocks_x() { return static_cast<int>(gridDim.x); }

// Dynamic shared memory of the thread block; starts at a multiple of 16 bytes.
DUALBINARY_DEVICE std::uint8_t* shared_memory() {
  extern __shared__ __align__(16) std::uint8_t dualbinary_shared[];
  return dualbinary_shared;
}

// Bytes from a multiple of `alignment` to a place in shared memory.
DUALBINARY_DEVICE unsigned misalignment(const void* place, unsigned alignment) {
  return static_cast<unsigned>(__cvta_generic_to_shared(place)) % alignment;
}

DUALBINARY_DEVICE void sync_block() { __syncthreads(); }
DUALBINARY_DEVICE void sync_warp() { __syncwarp(); }
DUALBINARY_DEVICE float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }

DUALBINARY_DEVICE float f16_to_float(std::uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
DUALBINARY_DEVICE std::uint16_t float_to_f16(float value) { return __half_as_ushort(__float2half_rn(value)); }
DUALBINARY_DEVICE float bf16_to_float(std::uint16_t bits) { return __uint_as_float(std::uint32_t{bits} << 16); }
DUALBINARY_DEVICE std::uint16_t float_to_bf16(float value) { return __bfloat16_as_ushort(__float2bfloat16_rn(value)); }

// Two floats rounded to float16: `low` in the low half of the word.
DUALBINARY_DEVICE std::uint32_t f16_pair(float low, float high) {
  std::uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

DUALBINARY_DEVICE std::uint32_t add_f16_pairs(std::uint32_t a, std::uint32_t b) {
  std::uint32_t sum;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(sum) : "r"(a), "r"(b));
  return sum;
}

// 2^e as a float, for e from -126 to 127; and the exponent of a normal float.
DUALBINARY_DEVICE float power_of_two(int exponent) { return __int_as_float((exponent + 127) << 23); }
DUALBINARY_DEVICE int exponent_of(float value) { return ((__float_as_int(value) >> 23) & 0xff) - 127; }

DUALBINARY_DEVICE bool finite(float value) { return (__float_as_int(value) & 0x7f800000) != 0x7f800000; }
DUALBINARY_DEVICE float not_a_number() { return __int_as_float(0x7fc00000); }
DUALBINARY_DEVICE float float_of(std::uint32_t bits) { return __uint_as_float(bits); }
DUALBINARY_DEVICE std::uint32_t bits_of(float value) { return __float_as_uint(value); }

// The larger of |a| and |b|; NaN where either is.
DUALBINARY_DEVICE float larger_magnitude(float a, float b) {
  float larger;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(fabsf(a)), "f"(fabsf(b)));
  return larger;
}

// a b rounded to an integer, for |a b| < 2^15: in the low 16 bits, with others above. The addition of 1.5 * 2^23
// rounds.
DUALBINARY_DEVICE std::uint32_t round_product(float a, float b) {
  return __float_as_uint(__fmaf_rn(a, b, 12582912.0f));
}
// The high 32 bits of a product.
DUALBINARY_DEVICE std::uint32_t multiply_high(std::uint32_t a, std::uint32_t b) { return __umulhi(a, b); }
DUALBINARY_DEVICE float multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }

// Exact for |value| < 2^22: cheaper than the conversion instruction, which runs at a quarter of the rate or less.
DUALBINARY_DEVICE float small_int_to_float(int value) { return __int_as_float(value + 0x4b400000) - 12582912.0f; }

// Byte i of the result is byte (selector >> 4i & 7) of {a: 0..3, b: 4..7}. Bits 3 of the selector must be zero.
DUALBINARY_DEVICE std::uint32_t permute_bytes(std::uint32_t a, std::uint32_t b, std::uint32_t selector) {
  return __byte_perm(a, b, selector);
}

// Loads of weights: read once, so they need no place in the first cache.
DUALBINARY_DEVICE Words2 load_once(const Words2* from) {
  Words2 v;
  asm("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(v.w[0]), "=r"(v.w[1]) : "l"(from));
  return v;
}
DUALBINARY_DEVICE Words4 load_once(const Words4* from) {
  Words4 v;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(v.w[0]), "=r"(v.w[1]), "=r"(v.w[2]), "=r"(v.w[3])
      : "l"(from));
  return v;
}

// A place in shared memory, in one register. The compiler makes it from a pointer again for each access, by a handful
// of instructions, where it has only the pointer.
using SharedAddress = std::uint32_t;
DUALBINARY_DEVICE SharedAddress shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}
DUALBINARY_DEVICE std::uint16_t load_u16(SharedAddress from) {
  std::uint16_t v;
  asm volatile("ld.shared.u16 %0, [%1];" : "=h"(v) : "r"(from) : "memory");
  return v;
}
DUALBINARY_DEVICE std::uint32_t load_word(SharedAddress from) {
  std::uint32_t v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(from) : "memory");
  return v;
}
DUALBINARY_DEVICE Words2 load_words2(SharedAddress from) {
  Words2 v;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v.w[0]), "=r"(v.w[1]) : "r"(from) : "memory");
  return v;
}
DUALBINARY_DEVICE Words4 load_words4(SharedAddress from) {
  Words4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.w[0]), "=r"(v.w[1]), "=r"(v.w[2]), "=r"(v.w[3])
               : "r"(from)
               : "memory");
  return v;
}

// Copies 16 bytes from global to shared memory, if `wanted`; both are 16-byte aligned. The bytes are there after the
// wait for the group that they were committed with.
DUALBINARY_DEVICE void copy_async_if(SharedAddress to, const void* from, bool wanted) {
  asm volatile(
      "{\n.reg .pred wanted;\nsetp.ne.b32 wanted, %2, 0;\n@wanted cp.async.cg.shared.global [%0], [%1], 16;\n}" ::"r"(
          to),
      "l"(from), "r"(static_cast<int>(wanted))
      : "memory");
}

// The same, with zeros unless `valid`. `from` must be a readable address in any case.
DUALBINARY_DEVICE void copy_async(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}
DUALBINARY_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// All but the latest `kPending` groups of this thread are there.
template <int kPending>
DUALBINARY_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Four 8x8 matrices of float16: lane 8i+j gives the address of row j of matrix i, and gets of each matrix row l / 4,
// columns 2(l % 4) and the next.
DUALBINARY_DEVICE void load_matrices(std::uint32_t (&m)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(shared_address(row))
               : "memory");
}

// Number of bits that are set in both, for each row of A and column of B.
DUALBINARY_DEVICE void mma_b1(int (&d)[4], std::uint32_t a0, std::uint32_t a1, std::uint32_t b) {
#if defined(DUALBINARY_HAS_MMA_B1)
  asm("mma.sync.aligned.m16n8k128.row.col.s32.b1.b1.s32.and.popc {%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %7, %7, %7};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a0), "r"(a1), "r"(b), "r"(0));
#else
  (void)d, (void)a0, (void)a1, (void)b;
#endif
}

// d += A B with unsigned bytes in A, and bytes in B that are signed if `kSigned`.
template <bool kSigned>
DUALBINARY_DEVICE void mma_u8(int (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  if constexpr (kSigned) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.u8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

// d += A B in float16, with float32 sums.
DUALBINARY_DEVICE void mma_f16(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Makes what this thread wrote to shared memory, by asynchronous copies as well, visible to wgmma; before a barrier.
DUALBINARY_DEVICE void publish_shared() {
#if defined(DUALBINARY_HAS_WGMMA)
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// Products of a warpgroup (four warps, of which the first has a number that is a multiple of four) with B in shared
// memory, asynchronous: between wgmma_fence() and the wgmma_wait() that covers it, a wgmma's registers and its part of
// shared memory must not be touched.
DUALBINARY_DEVICE void wgmma_fence() {
#if defined(DUALBINARY_HAS_WGMMA)
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
DUALBINARY_DEVICE void wgmma_commit() {
#if defined(DUALBINARY_HAS_WGMMA)
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
template <int kPending>
DUALBINARY_DEVICE void wgmma_wait() {
#if defined(DUALBINARY_HAS_WGMMA)
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
#endif
}

#define DUALBINARY_F4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define DUALBINARY_F16(d, i) \
  DUALBINARY_F4(d, i), DUALBINARY_F4(d, i + 4), DUALBINARY_F4(d, i + 8), DUALBINARY_F4(d, i + 12)
#define DUALBINARY_F64(d, i) \
  DUALBINARY_F16(d, i), DUALBINARY_F16(d, i + 16), DUALBINARY_F16(d, i + 32), DUALBINARY_F16(d, i + 48)

// Keeps the compiler from computing or moving a register past this point: operands of a wgmma must be ready before
// wgmma_fence(), and sums must not be touched before wgmma_wait().
DUALBINARY_DEVICE void pin(std::uint32_t& value) { asm volatile("" : "+r"(value)::"memory"); }
DUALBINARY_DEVICE void pin(float& value) { asm volatile("" : "+f"(value)::"memory"); }

// d = A B, or d += A B if `add`, for 64 rows, kTokens columns and K = 16. B is 16 values (32 bytes, at `b`) of each
// of the tokens' lines of 128 bytes, with the 128-byte swizzle; the lines begin at a multiple of 1024 bytes.
template <int kTokens>
DUALBINARY_DEVICE void wgmma(float (&d)[kTokens / 2], const std::uint32_t (&a)[4], const void* b, bool add) {
  static_assert(kTokens == 128 || kTokens == 256);
#if defined(DUALBINARY_HAS_WGMMA)
  // The descriptor: start; 1, which this swizzle does not read; 1024 bytes between groups of eight lines; 128-byte
  // swizzle (PTX ISA, "Matrix Descriptor Format"). Addresses are in units of 16 bytes.
  const std::uint64_t descriptor = (std::uint64_t{shared_address(b)} & 0x3ffff) >> 4 | std::uint64_t{1} << 16 |
                                   std::uint64_t{1024 >> 4} << 32 | std::uint64_t{1} << 62;
  if constexpr (kTokens == 128) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %69, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, {%64, %65, %66, %67}, %68, "
        "add, 1, 1, 0;\n}"
        : DUALBINARY_F64(d, 0)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(descriptor), "r"(static_cast<int>(add))
        : "memory");
  } else {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %133, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
        "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, {%128, %129, "
        "%130, %131}, %132, add, 1, 1, 0;\n}"
        : DUALBINARY_F64(d, 0), DUALBINARY_F64(d, 64)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(descriptor), "r"(static_cast<int>(add))
        : "memory");
  }
#else
  (void)d, (void)a, (void)b, (void)add;
#endif
}

#undef DUALBINARY_F64
#undef DUALBINARY_F16
#undef DUALBINARY_F4

inline void check(const char* what, cudaError_t error) {
  if (error == cudaSuccess) return;
  (void)cudaGetLastError();  // it is kept for the next one who asks, who may be another library
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

// Allows a kernel all the shared memory that a thread block can have on the current device. Always the same, as several
// threads may launch it at once, and once a kernel and device, as it may be asked while a graph is captured.
inline void allow_shared_memory(const void* kernel, int device) {
  static std::mutex mutex;
  static auto* const allowed = new std::set<std::pair<const void*, int>>;
  const std::lock_guard lock(mutex);
  if (allowed->contains({kernel, device})) return;
  int max_bytes = 0;
  check("cudaDeviceGetAttribute", cudaDeviceGetAttribute(&max_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  check("cudaFuncSetAttribute", cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, max_bytes));
  allowed->insert({kernel, device});
}

inline constexpr unsigned kDefaultSharedBytes = 48 << 10;

template <class... Parameters>
void prepare_launch(void (*kernel)(Parameters...), unsigned shared_bytes) {
  if (shared_bytes <= kDefaultSharedBytes) return;
  int device = 0;
  check("cudaGetDevice", cudaGetDevice(&device));
  allow_shared_memory(reinterpret_cast<const void*>(kernel), device);
}

// Thread blocks that a multiprocessor of the current device holds at once; at least one.
template <class... Parameters>
int resident_blocks(void (*kernel)(Parameters...), unsigned threads, unsigned shared_bytes) {
  prepare_launch(kernel, shared_bytes);
  int blocks = 0;
  check("cudaOccupancyMaxActiveBlocksPerMultiprocessor",
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, static_cast<int>(threads), shared_bytes));
  return blocks > 0 ? blocks : 1;
}

// Enqueues a kernel. Throws std::runtime_error where the runtime refuses.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const Launch& shape, Arguments&&... arguments) {
  prepare_launch(kernel, shape.shared_bytes);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(shape.grid.x, shape.grid.y);
  config.blockDim = dim3(shape.threads);
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = static_cast<cudaStream_t>(shape.stream);
  check("launch", cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...));
}

}  // namespace dualbinary::simt
