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

int attribute(cudaDeviceAttr which, int index) {
  int value = 0;
  check("cudaDeviceGetAttribute", cudaDeviceGetAttribute(&value, which, index));
  return value;
}

int capability_of(int index) {
  return 10 * attribute(cudaDevAttrComputeCapabilityMajor, index) + attribute(cudaDevAttrComputeCapabilityMinor, index);
}

Device describe(int index) {
  cudaDeviceProp properties{};
  check("cudaGetDeviceProperties", cudaGetDeviceProperties(&properties, index));
  return {index, properties.name, capability_of(index), properties.multiProcessorCount, properties.totalGlobalMem};
}

// Allocations are not allowed while another thread captures a graph, unless a thread says that it knows what it does:
// no allocation here depends on the captured work.
class DuringCapture {
 public:
  DuringCapture() { (void)cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~DuringCapture() { (void)cudaThreadExchangeStreamCaptureMode(&mode_); }
  DuringCapture(const DuringCapture&) = delete;
  DuringCapture& operator=(const DuringCapture&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

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
  // The full description takes a millisecond; this is asked for every weight.
  return {index, "", capability_of(index), attribute(cudaDevAttrMultiProcessorCount, index), 0};
}

DeviceScope::DeviceScope(int index) : before_(index) {
  check("cudaGetDevice", cudaGetDevice(&before_));
  if (before_ == index) return;
  check("cudaSetDevice", cudaSetDevice(index));
  changed_ = true;
}

// Only where it changed: setting a device also gives it a context, and memory for that.
DeviceScope::~DeviceScope() {
  if (changed_) (void)cudaSetDevice(before_);
}

void FreeOnDevice::operator()(void* memory) const {
  try {
    const DeviceScope scope(device);
    const DuringCapture relaxed;
    (void)cudaFree(memory);
  } catch (const std::exception&) {
    // The process may be past the end of the CUDA runtime, which has then freed everything.
  }
}

DeviceMemory allocate_on(int index, std::size_t bytes) {
  void* memory = nullptr;
  const DuringCapture relaxed;
  check("cudaMalloc", cudaMalloc(&memory, bytes));
  return DeviceMemory(memory, {index});
}

Stream::Stream() {
  const DuringCapture relaxed;
  cudaStream_t stream = nullptr;
  check("cudaStreamCreateWithFlags", cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  stream_ = stream;
}

Stream::~Stream() { (void)cudaStreamDestroy(static_cast<cudaStream_t>(stream_)); }

void Stream::upload(void* to, const void* from, std::size_t bytes) const {
  check("cudaMemcpyAsync",
        cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, static_cast<cudaStream_t>(stream_)));
}

void Stream::wait() const {
  const DuringCapture relaxed;
  check("cudaStreamSynchronize", cudaStreamSynchronize(static_cast<cudaStream_t>(stream_)));
}

}  // namespace dualbinary::cuda
