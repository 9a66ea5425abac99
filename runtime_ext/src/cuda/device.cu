#include <cuda_runtime.h>

#include <new>
#include <sstream>
#include <stdexcept>

#include "cuda/device.h"

namespace dualbinary::cuda {
namespace {

void check(const char* what, cudaError_t error) {
  if (error == cudaSuccess) return;
  // An error is kept for the next one who asks, who may be another library.
  (void)cudaGetLastError();
  if (error == cudaErrorMemoryAllocation) throw std::bad_alloc();
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

Device describe(int index) {
  cudaDeviceProp properties{};
  check("cudaGetDeviceProperties", cudaGetDeviceProperties(&properties, index));
  return {index, properties.name, 10 * properties.major + properties.minor, properties.multiProcessorCount,
          properties.totalGlobalMem};
}

}  // namespace

const bool kEmulated = false;

std::vector<int> architectures() {
  // "80,86,90": what CMake compiled for.
  std::vector<int> list;
  std::stringstream names(DUALBINARY_CUDA_ARCHITECTURES);
  for (std::string name; std::getline(names, name, ',');) list.push_back(std::stoi(name));
  return list;
}

std::vector<Device> devices(std::string& error) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    (void)cudaGetLastError();
    error = cudaGetErrorString(status);
    return {};
  }
  std::vector<Device> list;
  for (int index = 0; index < count; ++index) list.push_back(describe(index));
  if (list.empty()) error = "no CUDA device";
  return list;
}

Device device(int index) {
  int count = 0;
  check("cudaGetDeviceCount", cudaGetDeviceCount(&count));
  if (index < 0 || index >= count) {
    throw std::invalid_argument("device: expected 0 to " + std::to_string(count - 1) + ", got " +
                                std::to_string(index));
  }
  return describe(index);
}

DeviceScope::DeviceScope(int index) : before_(index) {
  check("cudaGetDevice", cudaGetDevice(&before_));
  if (before_ != index) check("cudaSetDevice", cudaSetDevice(index));
}

DeviceScope::~DeviceScope() { (void)cudaSetDevice(before_); }

void FreeOnDevice::operator()(void* memory) const {
  try {
    const DeviceScope scope(device);
    (void)cudaFree(memory);
  } catch (const std::exception&) {
    // The process may be past the end of the CUDA runtime, which has then freed everything.
  }
}

DeviceMemory allocate_on(int index, std::size_t bytes) {
  void* memory = nullptr;
  check("cudaMalloc", cudaMalloc(&memory, bytes));
  return DeviceMemory(memory, {index});
}

void upload(void* to, const void* from, std::size_t bytes) {
  check("cudaMemcpy", cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice));
}

void wait_for_device() { check("a kernel that packs a weight", cudaStreamSynchronize(nullptr)); }

}  // namespace dualbinary::cuda
