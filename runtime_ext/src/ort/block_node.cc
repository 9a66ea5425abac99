#include "ort/block_node.h"

#include <stdexcept>

#include "contract.h"
#include "core/dispatch.h"
#include "kernels/exact.h"
#include "ort/node.h"
#include "ort/status.h"

namespace dualbinary {
namespace {

// Attributes whose names have a prefix.
class Prefixed : public AttributeReader {
 public:
  Prefixed(const AttributeReader& reader, const char* prefix) : reader_(reader), prefix_(std::string(prefix) + "_") {}
  std::optional<std::int64_t> read(const char* name) const override { return reader_.read((prefix_ + name).c_str()); }
  std::optional<float> read_float(const char* name) const override {
    return reader_.read_float((prefix_ + name).c_str());
  }

 private:
  const AttributeReader& reader_;
  std::string prefix_;
};

// What `body` returns; what it throws for gets the prefix of the product in front.
template <class Body>
auto of_product(const ProductPort& port, const Body& body) {
  try {
    return body();
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument(std::string(port.prefix) + ": " + error.what());
  }
}

}  // namespace

Spec read_product(const AttributeReader& reader, const ProductPort& port, std::int64_t K, std::int64_t N) {
  return of_product(port, [&] { return read_attributes(Prefixed(reader, port.prefix), K, N); });
}

std::unique_ptr<Weight> read_weight(const OrtApi& api, const OrtKernelInfo* info, const ProductPort& port,
                                    std::int64_t K, std::int64_t N) {
  const Spec spec = read_product(KernelAttributes(api, info), port, K, N);
  return of_product(port, [&] {
    const OrtValue* planes = constant_input(api, info, port.planes, "planes");
    const OrtValue* scales = constant_input(api, info, port.scales, "scales");
    const TensorInfo x{ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, {K}};
    const Shape shape = check_inputs(spec, x, read_info(api, planes), read_info(api, scales)).value();
    const Stored stored{static_cast<const std::uint8_t*>(tensor_data(api, planes)), tensor_data(api, scales)};
    const MatMulKernel& kernel = choose_kernel(shape);
    return std::make_unique<Weight>(shape, stored, kernel, many_rows_kernel(kernel, shape));
  });
}

bool has_input(const OrtApi& api, const OrtKernelInfo* info, int index) {
  std::size_t count = 0;
  check(api, api.KernelInfo_GetInputCount(info, &count));
  if (static_cast<std::size_t>(index) >= count) return false;
  // A missing optional input has an empty name.
  std::size_t size = 0;
  check(api, api.KernelInfo_GetInputName(info, static_cast<std::size_t>(index), nullptr, &size));
  return size > 1;
}

VectorInput::VectorInput(const OrtApi& api, const OrtKernelInfo* info, int index, const char* name, std::int64_t size)
    : index_(index), name_(name), size_(size), there_(has_input(api, info, index)) {
  if (!there_) return;
  int is_constant = 0;
  const OrtValue* value = nullptr;
  check(api, api.KernelInfoGetConstantInput_tensor(info, static_cast<std::size_t>(index), &is_constant, &value));
  if (is_constant != 0 && value != nullptr) constant_ = floats(api, value);
}

const float* VectorInput::read(const OrtApi& api, OrtKernelContext* context, std::vector<float>& scratch) const {
  if (!there_) return nullptr;
  if (!constant_.empty()) return constant_.data();
  const OrtValue* value = nullptr;
  check(api, api.KernelContext_GetInput(context, static_cast<std::size_t>(index_), &value));
  scratch = floats(api, value);
  return scratch.data();
}

std::vector<float> VectorInput::floats(const OrtApi& api, const OrtValue* value) const {
  const TensorInfo got = read_info(api, value);
  if (got.dims != std::vector<std::int64_t>{size_}) {
    throw std::invalid_argument(std::string(name_) + ": expected shape [" + std::to_string(size_) + "], got " +
                                to_string(got.dims));
  }
  const Element type = element_of(name_, got.type);
  std::vector<float> result(static_cast<std::size_t>(size_));
  const void* data = tensor_data(api, value);
  for (std::int64_t i = 0; i < size_; ++i) {
    result[static_cast<std::size_t>(i)] = static_cast<float>(load_element(data, type, i));
  }
  return result;
}

std::int64_t read_size(const AttributeReader& reader, const char* name, std::int64_t minimum) {
  const std::int64_t value = reader.required(name);
  if (value >= minimum && value <= contract::kMaxDimension) return value;
  throw std::invalid_argument(std::string(name) + ": expected " + std::to_string(minimum) + " to " +
                              std::to_string(contract::kMaxDimension) + ", got " + std::to_string(value));
}

}  // namespace dualbinary
