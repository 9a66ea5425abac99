// Packed form of a weight: one copy for all weights of the process that have the same content.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/memory.h"
#include "kernels/kernel.h"

namespace dualbinary {

class Packed {
 public:
  // The packed form for `kernel`: a copy that is in use, or else a new one, packed by several threads where it is
  // large. A copy is taken only after every byte of it has been compared, so that weights never mix. Two calls at the
  // same time may both pack. Throws std::bad_alloc.
  static std::shared_ptr<const Packed> get(const Shape& shape, const Stored& stored, const MatMulKernel& kernel);

  ~Packed();
  Packed(const Packed&) = delete;
  Packed& operator=(const Packed&) = delete;

  const std::uint8_t* data() const { return memory_.get(); }

  // All copies in use.
  struct Usage {
    std::size_t copies;
    std::size_t bytes;
  };
  static Usage usage();

 private:
  Packed(const Shape& shape, const MatMulKernel& kernel, std::size_t key);
  void pack(const Stored& stored);
  bool holds(const Shape& shape, const Stored& stored, const MatMulKernel& kernel) const;

  Shape shape_;
  void (*pack_block_)(const Shape&, const Stored&, std::int64_t, std::uint8_t*);
  std::int64_t blocks_;
  std::size_t block_bytes_;
  std::size_t key_;
  Buffer memory_;
};

}  // namespace dualbinary
