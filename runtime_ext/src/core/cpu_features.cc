#include "core/cpu_features.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <string_view>

#if defined(__x86_64__)
#define DUALBINARY_X86 1
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__aarch64__) && defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <windows.h>
#endif

namespace dualbinary {
namespace {

#if DUALBINARY_X86

using Registers = std::array<std::uint32_t, 4>;  // eax, ebx, ecx, edx
enum Register { kEax, kEbx, kEcx, kEdx };

Registers cpuid(std::uint32_t leaf, std::uint32_t subleaf = 0) {
  Registers r{};
  // Fails, and leaves zeros, where the CPU does not know the leaf.
  __get_cpuid_count(leaf, subleaf, &r[kEax], &r[kEbx], &r[kEcx], &r[kEdx]);
  return r;
}

// Register sets that the operating system saves on a context switch (XCR0); 0 where it saves none beyond SSE.
std::uint32_t saved_state(const Registers& leaf1) {
  constexpr std::uint32_t kOsXsave = 1U << 27;
  if ((leaf1[kEcx] & kOsXsave) == 0) return 0;
  std::uint32_t low = 0;
  std::uint32_t high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

enum Leaf { kLeaf1, kLeaf7, kLeaf7Sub1 };

struct Feature {
  const char* name;
  Leaf leaf;
  Register where;
  int bit;
  std::uint32_t state;  // XCR0 bits it needs
};

constexpr std::uint32_t kYmm = 0x06;  // SSE and AVX state
constexpr std::uint32_t kZmm = 0xe6;  // and mask registers and both halves of the 512-bit state

constexpr std::array<Feature, 10> kAll = {{
    {"avx2", kLeaf7, kEbx, 5, kYmm},
    {"fma", kLeaf1, kEcx, 12, kYmm},
    {"f16c", kLeaf1, kEcx, 29, kYmm},
    {"avxvnni", kLeaf7Sub1, kEax, 4, kYmm},
    {"avx512f", kLeaf7, kEbx, 16, kZmm},
    {"avx512bw", kLeaf7, kEbx, 30, kZmm},
    {"avx512dq", kLeaf7, kEbx, 17, kZmm},
    {"avx512vl", kLeaf7, kEbx, 31, kZmm},
    {"avx512vnni", kLeaf7, kEcx, 11, kZmm},
    {"avx512vbmi", kLeaf7, kEcx, 1, kZmm},
}};

std::vector<std::string> detect() {
  const Registers leaf1 = cpuid(1);
  const Registers leaf7 = cpuid(7);
  // Leaf 7 says itself which subleaves it has, and the CPU decides what others hold.
  const Registers leaf7_sub1 = leaf7[kEax] >= 1 ? cpuid(7, 1) : Registers{};
  const std::array<Registers, 3> leaves = {leaf1, leaf7, leaf7_sub1};
  const std::uint32_t state = saved_state(leaf1);
  std::vector<std::string> found;
  for (const Feature& f : kAll) {
    const Registers& r = leaves[f.leaf];
    if ((r[f.where] >> f.bit & 1U) != 0 && (state & f.state) == f.state) found.emplace_back(f.name);
  }
  return found;
}

#elif defined(__aarch64__)

// Int8 matrix multiplication, of Armv8.6-A and an option before it.
bool has_i8mm() {
#if defined(__linux__)
  constexpr unsigned long kI8mmBit = 1UL << 13;  // HWCAP2_I8MM, which older system headers do not know
  return (getauxval(AT_HWCAP2) & kI8mmBit) != 0;
#elif defined(__APPLE__)
  int value = 0;
  std::size_t bytes = sizeof(value);
  return sysctlbyname("hw.optional.arm.FEAT_I8MM", &value, &bytes, nullptr, 0) == 0 && value != 0;
#elif defined(_WIN32)
  constexpr DWORD kI8mm = 66;  // PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE, which older system headers do not know
  return IsProcessorFeaturePresent(kI8mm) != 0;
#else
  return false;
#endif
}

// Advanced SIMD is part of every AArch64 that runs one of these operating systems.
std::vector<std::string> detect() {
  std::vector<std::string> found = {"asimd"};
  if (has_i8mm()) found.emplace_back("i8mm");
  return found;
}

#else

std::vector<std::string> detect() { return {}; }

#endif

// The features that kernels of an instruction set use.
std::vector<std::string_view> needs(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return {};
    case Isa::kAvx2:
      return {"avx2", "fma", "f16c"};
    case Isa::kAvxVnni:
      return {"avx2", "fma", "f16c", "avxvnni"};
    case Isa::kAvx512:
      return {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "avx512vbmi"};
    case Isa::kNeon:
      return {"asimd"};
    case Isa::kI8mm:
      return {"asimd", "i8mm"};
  }
  return {"an instruction set without a name"};
}

}  // namespace

const std::vector<std::string>& cpu_features() {
  static const std::vector<std::string> features = detect();
  return features;
}

bool cpu_has(Isa isa) {
  const auto& found = cpu_features();
  const auto needed = needs(isa);
  return std::all_of(needed.begin(), needed.end(),
                     [&](std::string_view name) { return std::find(found.begin(), found.end(), name) != found.end(); });
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return "scalar";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvxVnni:
      return "avxvnni";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kNeon:
      return "neon";
    case Isa::kI8mm:
      return "i8mm";
  }
  return "unknown";
}

}  // namespace dualbinary
