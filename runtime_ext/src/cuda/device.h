// The devices and their memory, as far as the C interface needs them. Errors are std::runtime_error.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

namespace dualbinary::cuda {

struct Device {
  int index;
  std::string name;
  int capability;  // 90 for 9.0
  int multiprocessors;
  std::size_t memory;  // bytes
};

// True in the emulation.
extern const bool kEmulated;

// Compute capabilities that this build has machine code for.
std::vector<int> architectures();

// All devices. Where there are none, `error` says why.
std::vector<Device> devices(std::string& error);

// Without name and memory. Throws std::invalid_argument for an index that no device has.
Device device(int index);

// Makes a device the calling thread's current one until the end of the scope.
class DeviceScope {
 public:
  explicit DeviceScope(int index);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int before_;
  bool changed_ = false;
};

struct FreeOnDevice {
  int device = 0;
  void operator()(void* memory) const;
};
using DeviceMemory = std::unique_ptr<void, FreeOnDevice>;

// On the current device, which is `index`. Throws std::bad_alloc.
DeviceMemory allocate_on(int index, std::size_t bytes);

// A new stream on the current device: work on it neither waits for other streams nor disturbs their
// capture into graphs, by any thread.
class Stream {
 public:
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  void* get() const { return stream_; }  // cudaStream_t

  // Copies from host memory.
  void upload(void* to, const void* from, std::size_t bytes) const;

  // Waits for all of it, and throws where something failed.
  void wait() const;

 private:
  void* stream_ = nullptr;
};

}  // namespace dualbinary::cuda
