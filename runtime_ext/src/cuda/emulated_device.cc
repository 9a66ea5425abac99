// One device that is a CPU. DUALBINARY_CUDA_EMULATED_CAPABILITY says which GPU a new weight takes it for.
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "cuda/device.h"
#include "cuda/simt/guarded.h"

namespace dualbinary::cuda {
namespace {

constexpr char kCapabilityVariable[] = "DUALBINARY_CUDA_EMULATED_CAPABILITY";
constexpr int kDefaultCapability = 90;
constexpr int kMultiprocessors = 2;  // few, so that a thread block of the kernels for few rows has several row tiles

Device describe() {
  const char* set = std::getenv(kCapabilityVariable);
  const int capability = set == nullptr || *set == '\0' ? kDefaultCapability : std::atoi(set);
  return {0, "emulated", capability, kMultiprocessors, std::size_t{1} << 30};
}

}  // namespace

const bool kEmulated = true;

std::vector<int> architectures() { return {80, 86, 89, 90, 100, 120}; }

std::vector<Device> devices(std::string&) { return {describe()}; }

Device device(int index) {
  if (index != 0) throw std::invalid_argument("device: expected 0, got " + std::to_string(index));
  return describe();
}

DeviceScope::DeviceScope(int index) : before_(index) {}
DeviceScope::~DeviceScope() = default;

void FreeOnDevice::operator()(void* memory) const { simt::emulated::ReleaseGuarded()(memory); }

DeviceMemory allocate_on(int index, std::size_t bytes) {
  return DeviceMemory(simt::emulated::allocate_guarded(bytes).release(), {index});
}

Stream::Stream() = default;
Stream::~Stream() = default;
void Stream::upload(void* to, const void* from, std::size_t bytes) const { std::memcpy(to, from, bytes); }
void Stream::wait() const {}

}  // namespace dualbinary::cuda
