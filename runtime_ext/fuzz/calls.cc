// What a fuzzer does with a node: tensors for it, and calls.
#include <cstring>
#include <limits>

#include "defect.h"
#include "fake_ort.h"

namespace dualbinary::fuzz {
namespace {

constexpr std::size_t kMaxTensorBytes = std::size_t{1} << 17;  // a megabyte took two seconds
constexpr std::uint8_t kFills[] = {0xAA, 0x55};

// Numbers that overflow, vanish, or are none, as the high bytes of float32; cut, they are those of float16.
constexpr std::uint16_t kSpecial[] = {0x7F80, 0xFF80, 0x7FC0, 0x7F7F, 0x0001, 0x8000,
                                      0x0080, 0x7C00, 0xFC00, 0x7E00, 0x7BFF};

template <class T>
void write(std::uint8_t* at, T value) {
  std::memcpy(at, &value, sizeof(value));
}

// Between 2^-4 and 2^3, either sign.
void write_number(std::uint8_t* at, ONNXTensorElementDataType type, std::uint64_t noise) {
  const auto sign = static_cast<std::uint32_t>(noise & 1);
  const auto exponent = static_cast<std::uint32_t>(noise >> 1 & 7);
  const auto fraction = static_cast<std::uint32_t>(noise >> 4);
  if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
    write<std::uint32_t>(at, sign << 31 | (123 + exponent) << 23 | (fraction & 0x7FFFFF));
  } else if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16) {
    write(at, static_cast<std::uint16_t>(sign << 15 | (123 + exponent) << 7 | (fraction & 0x7F)));
  } else {
    write(at, static_cast<std::uint16_t>(sign << 15 | (11 + exponent) << 10 | (fraction & 0x3FF)));
  }
}

void write_special(std::uint8_t* at, std::size_t size, std::uint64_t noise) {
  const std::uint16_t high = kSpecial[noise % std::size(kSpecial)];
  if (size == sizeof(std::uint32_t)) {
    write(at, static_cast<std::uint32_t>(high) << 16 | static_cast<std::uint32_t>(noise >> 48));
  } else {
    write(at, high);
  }
}

void fill(Bytes& bytes, OrtValue& value) {
  const std::uint8_t mode = bytes.byte();
  Noise noise(bytes.word());
  const std::size_t size = element_bytes(value.type);
  const bool floats = value.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ||
                      value.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 ||
                      value.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
  if (!floats || mode >= 224) {
    std::size_t done = 0;
    for (; done + sizeof(std::uint64_t) <= value.bytes; done += sizeof(std::uint64_t)) {
      write(value.data + done, noise.next());
    }
    for (; done < value.bytes; ++done) value.data[done] = static_cast<std::uint8_t>(noise.next());
    return;
  }
  for (std::uint8_t* at = value.data; at != value.data + value.bytes; at += size) {
    const std::uint64_t number = noise.next();
    if (mode >= 192 && number % 16 == 0) {
      write_special(at, size, number >> 8);
    } else {
      write_number(at, value.type, number);
    }
  }
}

std::string take(OrtStatus* status) {
  if (status == nullptr) return {};
  const std::string message = status->message;
  delete status;
  if (message.empty()) defect("an error without words");
  return message;
}

bool same(const OrtKernelContext& a, const OrtKernelContext& b) {
  if (a.outputs.size() != b.outputs.size()) return false;
  for (const auto& [index, value] : a.outputs) {
    const OrtValue& other = b.outputs.at(index);
    if (value.dims != other.dims || std::memcmp(value.data, other.data, value.bytes) != 0) return false;
  }
  return true;
}

}  // namespace

std::size_t element_bytes(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
      return 4;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16:
      return 2;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE:
      return 8;
    default:
      return 1;
  }
}

ONNXTensorElementDataType any_type(Bytes& bytes) {
  return bytes.pick({ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                     ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
                     ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
                     ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE});
}

std::optional<OrtValue> new_tensor(Bytes& bytes, ONNXTensorElementDataType type, std::vector<std::int64_t> dims,
                                   bool constant) {
  OrtValue value{type, std::move(dims), nullptr, nullptr, element_bytes(type)};
  for (const std::int64_t dim : value.dims) {
    if (dim < 0 || static_cast<std::uint64_t>(dim) > kMaxTensorBytes) return std::nullopt;
    value.bytes *= static_cast<std::size_t>(dim);
    if (value.bytes > kMaxTensorBytes) return std::nullopt;
  }
  const std::size_t offset = constant && bytes.rarely() ? static_cast<std::size_t>(1 + bytes.below(7)) : 0;
  value.memory.reset(new std::uint8_t[value.bytes + offset]);
  value.data = value.memory.get() + offset;
  fill(bytes, value);
  return value;
}

void infer(const OrtCustomOp& op, const OrtKernelInfo& node, Bytes& bytes) {
  OrtShapeInferContext context{&node, {}, {}};
  for (const auto& input : node.inputs) {
    OrtTensorTypeAndShapeInfo info;
    if (input) info = {input->type, input->dims, {}};
    for (std::int64_t& dim : info.dims) {
      if (bytes.rarely()) dim = bytes.flag() ? -1 : bytes.edge() & std::numeric_limits<std::int64_t>::max();
      info.symbols.emplace_back(dim < 0 ? "symbol" : "");
    }
    if (bytes.rarely()) info.dims.resize(static_cast<std::size_t>(bytes.below(6)), 1);
    info.symbols.resize(info.dims.size());
    context.inputs.push_back(std::move(info));
  }
  take(op.InferOutputShapeFn(&op, &context));
  for (const auto& [index, info] : context.outputs) {
    if (info.symbols.size() != info.dims.size()) defect("an output with as many symbols as dimensions was expected");
  }
}

void run(const OrtCustomOp& op, OrtKernelInfo& node, const std::map<std::size_t, std::size_t>& shared) {
  const OrtApi* api = fake_api();
  void* kernel = nullptr;
  if (!take(op.CreateKernelV2(&op, api, &node, &kernel)).empty()) return;
  OrtKernelContext first{&node, kFills[0], false, shared, {}};
  OrtKernelContext second{&node, kFills[1], true, shared, {}};
  const std::string error = take(op.KernelComputeV2(kernel, &first));
  const std::string again = take(op.KernelComputeV2(kernel, &second));
  op.KernelDestroy(kernel);
  if (error != again) defect("two equal calls gave different errors");
  if (error.empty() && !same(first, second)) defect("two equal calls gave different outputs");
}

}  // namespace dualbinary::fuzz
