// A weight on a device: checked, copied there and packed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/spec.h"
#include "cuda/device.h"
#include "cuda/inventory.h"
#include "cuda/packed.h"

namespace dualbinary::cuda {

class DeviceWeight {
 public:
  // `shape` is one that check_cuda_limits() accepts; `stored` is in host memory, and not needed afterwards. Throws
  // std::invalid_argument, and std::bad_alloc where the device's memory is too small.
  DeviceWeight(const Shape& shape, const Stored& stored, const Device& device);

  // The kernel that `name` asks for, or the best for the call. Throws std::invalid_argument.
  const CudaKernel& kernel(const char* name, const Call& call) const;

  // A product by this weight, to which the caller adds the data.
  Call call() const { return {packed_, accuracy_level_, device_.multiprocessors, {}, nullptr, nullptr, nullptr}; }

  const Device& device() const { return device_; }
  std::size_t bytes() const { return bytes_; }

 private:
  void pack(const Stored& stored, const Shape& shape);

  Device device_;
  int accuracy_level_;
  PackedWeight packed_;
  std::size_t bytes_ = 0;
  DeviceMemory planes_;
  DeviceMemory scales_;
  DeviceMemory factors_;
};

}  // namespace dualbinary::cuda
