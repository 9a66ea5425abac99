// What libFuzzer does, without its search: runs a target on files, or on so many inputs of one seed. For compilers that
// have no libFuzzer, and to reproduce a crash.
//
//   PROGRAM FILE ..             each file once
//   PROGRAM -runs=N [-seed=S]   N inputs; a sanitizer's report, or a defect, ends the process
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "bytes.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

constexpr std::size_t kMostBytes = 512;
// Kinds of inputs: all bytes from noise; or zeros, which decide for good calls, with so much noise in them.
constexpr std::uint64_t kKinds = 4;

using Input = std::vector<std::uint8_t>;

std::uint64_t number(const char* argument, const char* name) {
  const std::size_t length = std::strlen(name);
  return std::strncmp(argument, name, length) == 0 ? std::strtoull(argument + length, nullptr, 10) : 0;
}

// On an exact allocation, so that a target's own reads past it are seen too.
void call(const Input& input) { LLVMFuzzerTestOneInput(input.data(), input.size()); }

Input make(std::uint32_t seed) {
  dualbinary::fuzz::Noise noise(seed);
  for (int i = 0; i < 8; ++i) noise.next();  // neighboring seeds begin alike
  Input input(noise.next() % kMostBytes);
  const std::uint64_t kind = noise.next() % kKinds;
  for (std::uint8_t& byte : input) {
    const std::uint64_t value = noise.next();
    // Of 256 values 16 spoil a call; only one in 2^kind of these stays.
    const bool spoils = (value & 255) >= 240 && (value >> 8 & ((1U << (2 * kind)) - 1)) != 0;
    byte = static_cast<std::uint8_t>(spoils ? value & 127 : value & 255);
  }
  return input;
}

}  // namespace

int main(int argc, char** argv) {
  std::uint64_t runs = 0;
  std::uint64_t seed = 1;
  for (int i = 1; i < argc; ++i) {
    if (argv[i][0] != '-') {
      std::ifstream file(argv[i], std::ios::binary);
      if (!file) {
        std::fprintf(stderr, "%s: not readable\n", argv[i]);
        return 2;
      }
      call(Input(std::istreambuf_iterator<char>(file), {}));
    }
    runs += number(argv[i], "-runs=");
    seed += number(argv[i], "-seed=");
  }
  for (std::uint64_t i = 0; i < runs; ++i) call(make(static_cast<std::uint32_t>(seed * 1000003 + i)));
  std::printf("%llu inputs done\n", static_cast<unsigned long long>(runs));
  return 0;
}
