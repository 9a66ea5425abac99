// The instructions of simt.h on a CPU, lane by lane, for tests.
//
// Each thread of a thread block is a fiber that runs until it must wait for others. Blocks run one after another on
// each CPU core. What a GPU leaves open is made to matter, so that a kernel that is wrong fails here as well:
//
//   - the order of warps and lanes is random, another one for each thread block, but the same in every run; in every
//   other
//     thread block a warp goes as far as it can before the others have their turn
//   - a byte that is being copied asynchronously is 0x7b, part of large numbers, until the wait for it; its source is
//     read only then
//   - a wgmma reads its operands at the wait for it
//   - shared and device memory end at a page that cannot be accessed, and shared memory begins as 0x7b
//   - an access that is not aligned ends the process as an illegal instruction (cmake/cuda.cmake)
//   - lanes that wait for different instructions, and threads that wait forever, end the process with a message
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <utility>

#define DUALBINARY_DEVICE inline
#define DUALBINARY_DEVICE_NOINLINE inline
#define DUALBINARY_GLOBAL(threads, blocks) inline void
#define DUALBINARY_HOST_DEVICE
#define DUALBINARY_ARGUMENT const
#define DUALBINARY_UNROLL
#define DUALBINARY_NO_UNROLL
#define DUALBINARY_HAS_MMA_B1 1
#define DUALBINARY_HAS_WGMMA 1

namespace dualbinary::simt {

namespace emulated {

// Where the running thread stands.
struct Place {
  int thread, block_x, block_y, blocks_x;
  std::uint8_t* shared;
};
const Place& place();

// Waits until all threads of the thread block, of the group of 32 or 128 that the running one belongs to, are here with
// the same `meet`; then one of them calls meet(arguments), with what each thread gave, in the order of the threads.
using Meet = void (*)(void* const* arguments);
void meet_warp(Meet meet, void* argument);
void meet_warpgroup(Meet meet, void* argument);
void meet_block();

// One thread's part of an asynchronous product of its warpgroup, and their groups.
void wgmma_issue(float* d, const std::uint32_t* a, const void* b, int tokens, bool add);
void wgmma_commit();
void wgmma_wait(int pending);

void copy_later(void* to, const void* from, bool valid);
void commit();
void wait(int pending);

void run(const Launch& shape, const std::function<void()>& kernel);

// A float's value in the format float16 or bfloat16, rounded to nearest even.
std::uint16_t to_half(float value);
float from_f16(std::uint16_t bits);

}  // namespace emulated

inline int thread() { return emulated::place().thread; }
inline int block_x() { return emulated::place().block_x; }
inline int block_y() { return emulated::place().block_y; }
inline int blocks_x() { return emulated::place().blocks_x; }
inline std::uint8_t* shared_memory() { return emulated::place().shared; }
inline unsigned misalignment(const void* place, unsigned alignment) {
  return static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(place) % alignment);
}
inline void sync_block() { emulated::meet_block(); }
inline void sync_warp() { emulated::meet_warp(nullptr, nullptr); }

inline float float_of(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float f16_to_float(std::uint16_t bits) { return emulated::from_f16(bits); }
inline std::uint16_t float_to_f16(float value) { return emulated::to_half(value); }
inline float bf16_to_float(std::uint16_t bits) { return float_of(std::uint32_t{bits} << 16); }
inline std::uint16_t float_to_bf16(float value) {
  const std::uint32_t bits = bits_of(value);
  if (value != value) return 0x7fff;
  return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
inline std::uint32_t f16_pair(float low, float high) {
  return std::uint32_t{float_to_f16(low)} | std::uint32_t{float_to_f16(high)} << 16;
}
inline std::uint32_t add_f16_pairs(std::uint32_t a, std::uint32_t b) {
  const auto value = [](std::uint32_t word, int i) { return f16_to_float(static_cast<std::uint16_t>(word >> 16 * i)); };
  return f16_pair(value(a, 0) + value(b, 0), value(a, 1) + value(b, 1));
}

inline float power_of_two(int exponent) { return float_of(static_cast<std::uint32_t>(exponent + 127) << 23); }
inline int exponent_of(float value) { return static_cast<int>(bits_of(value) >> 23 & 0xff) - 127; }
inline bool finite(float value) { return std::isfinite(value); }
inline float not_a_number() { return std::numeric_limits<float>::quiet_NaN(); }
inline float larger_magnitude(float a, float b) {
  if (a != a || b != b) return not_a_number();
  return std::max(std::fabs(a), std::fabs(b));
}
inline std::uint32_t round_product(float a, float b) { return bits_of(std::fma(a, b, 12582912.0f)); }
inline std::uint32_t multiply_high(std::uint32_t a, std::uint32_t b) {
  return static_cast<std::uint32_t>(std::uint64_t{a} * b >> 32);
}
inline float multiply_add(float a, float b, float c) { return std::fma(a, b, c); }
inline float small_int_to_float(int value) {
  return float_of(static_cast<std::uint32_t>(value + 0x4b400000)) - 12582912.0f;
}

inline std::uint32_t permute_bytes(std::uint32_t a, std::uint32_t b, std::uint32_t selector) {
  const std::uint64_t pool = std::uint64_t{b} << 32 | a;
  std::uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const std::uint32_t choice = selector >> 4 * i & 0xf;
    // Bit 3 asks the hardware for the byte's sign instead.
    const auto byte = static_cast<std::uint8_t>(pool >> 8 * (choice & 7));
    result |= std::uint32_t{(choice & 8) != 0 ? static_cast<std::uint8_t>(byte & 0x80 ? 0xff : 0) : byte} << 8 * i;
  }
  return result;
}

inline Words2 load_once(const Words2* from) { return *from; }
inline Words4 load_once(const Words4* from) { return *from; }

using SharedAddress = std::uint8_t*;
inline SharedAddress shared_address(void* pointer) { return static_cast<std::uint8_t*>(pointer); }
inline std::uint16_t load_u16(SharedAddress from) { return *reinterpret_cast<const std::uint16_t*>(from); }
inline std::uint32_t load_word(SharedAddress from) { return *reinterpret_cast<const std::uint32_t*>(from); }
inline Words2 load_words2(SharedAddress from) { return *reinterpret_cast<const Words2*>(from); }
inline Words4 load_words4(SharedAddress from) { return *reinterpret_cast<const Words4*>(from); }
inline void copy_async_if(SharedAddress to, const void* from, bool wanted) {
  if (wanted) emulated::copy_later(to, from, true);
}
inline void copy_async(void* to, const void* from, bool valid) { emulated::copy_later(to, from, valid); }
inline void commit_copies() { emulated::commit(); }
template <int kPending>
void wait_copies() {
  emulated::wait(kPending);
}

inline float shuffle_xor(float value, int mask) {
  struct Argument {
    float value;
    int mask;
    float result;
  } argument{value, mask, 0};
  emulated::meet_warp(
      [](void* const* arguments) {
        for (int lane = 0; lane < kLanes; ++lane) {
          auto& own = *static_cast<Argument*>(arguments[lane]);
          own.result = static_cast<Argument*>(arguments[lane ^ own.mask])->value;
        }
      },
      &argument);
  return argument.result;
}

inline void load_matrices(std::uint32_t (&m)[4], const void* row) {
  struct Argument {
    std::uint32_t* m;
    const void* row;
  } argument{m, row};
  emulated::meet_warp(
      [](void* const* arguments) {
        for (int lane = 0; lane < kLanes; ++lane) {
          for (int i = 0; i < 4; ++i) {
            const auto* from = static_cast<const Argument*>(arguments[8 * i + lane / 4])->row;
            std::memcpy(&static_cast<Argument*>(arguments[lane])->m[i],
                        static_cast<const std::uint8_t*>(from) + 4 * (lane % 4), 4);
          }
        }
      },
      &argument);
}

namespace emulated {

// Operands that a lane brings to a matrix instruction, and the parts of its fragments that the product needs.
template <class D, int kA, int kB>
struct Mma {
  D* d;
  std::uint32_t a[kA];
  std::uint32_t b[kB];
};

// d[row][column] += product(lane of the row in A, half of the row, lane of the column in B, t), summed over t.
template <class Argument, class Product>
void multiply_fragments(void* const* arguments, const Product& product) {
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int r = lane / 4;
      const int column = 2 * (lane % 4) + (i & 1);
      auto& sum = static_cast<Argument*>(arguments[lane])->d[i];
      for (int t = 0; t < 4; ++t) {
        const auto& a = *static_cast<const Argument*>(arguments[4 * r + t]);
        const auto& b = *static_cast<const Argument*>(arguments[4 * column + t]);
        sum += product(a.a, i >> 1, b.b);
      }
    }
  }
}

}  // namespace emulated

inline void mma_b1(int (&d)[4], std::uint32_t a0, std::uint32_t a1, std::uint32_t b) {
  for (int& sum : d) sum = 0;
  using Argument = emulated::Mma<int, 2, 1>;
  Argument argument{d, {a0, a1}, {b}};
  emulated::meet_warp(
      [](void* const* arguments) {
        emulated::multiply_fragments<Argument>(arguments, [](const std::uint32_t* a, int half, const std::uint32_t* b) {
          return __builtin_popcount(a[half] & b[0]);
        });
      },
      &argument);
}

template <bool kSigned>
void mma_u8(int (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  using Argument = emulated::Mma<int, 4, 2>;
  Argument argument{d, {a[0], a[1], a[2], a[3]}, {b0, b1}};
  emulated::meet_warp(
      [](void* const* arguments) {
        emulated::multiply_fragments<Argument>(arguments, [](const std::uint32_t* a, int half, const std::uint32_t* b) {
          int sum = 0;
          for (int i = 0; i < 8; ++i) {
            const auto x = static_cast<std::uint8_t>(a[half + 2 * (i / 4)] >> 8 * (i % 4));
            const auto y = static_cast<std::uint8_t>(b[i / 4] >> 8 * (i % 4));
            sum += x * (kSigned ? int{static_cast<std::int8_t>(y)} : int{y});
          }
          return sum;
        });
      },
      &argument);
}

inline void mma_f16(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  using Argument = emulated::Mma<float, 4, 2>;
  Argument argument{d, {a[0], a[1], a[2], a[3]}, {b0, b1}};
  emulated::meet_warp(
      [](void* const* arguments) {
        emulated::multiply_fragments<Argument>(arguments, [](const std::uint32_t* a, int half, const std::uint32_t* b) {
          float sum = 0;
          for (int i = 0; i < 4; ++i) {
            const auto x = static_cast<std::uint16_t>(a[half + 2 * (i / 2)] >> 16 * (i % 2));
            const auto y = static_cast<std::uint16_t>(b[i / 2] >> 16 * (i % 2));
            sum += f16_to_float(x) * f16_to_float(y);
          }
          return sum;
        });
      },
      &argument);
}

inline void publish_shared() {}
inline void wgmma_fence() {}
inline void pin(std::uint32_t&) {}
inline void pin(float&) {}
inline void wgmma_commit() { emulated::wgmma_commit(); }
template <int kPending>
void wgmma_wait() {
  emulated::wgmma_wait(kPending);
}
template <int kTokens>
void wgmma(float (&d)[kTokens / 2], const std::uint32_t (&a)[4], const void* b, bool add) {
  emulated::wgmma_issue(d, a, b, kTokens, add);
}

template <class... Parameters>
int resident_blocks(void (*)(Parameters...), unsigned, unsigned) {
  return 2;
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const Launch& shape, Arguments&&... arguments) {
  emulated::run(shape, [&] { kernel(arguments...); });
}

}  // namespace dualbinary::simt
