#include "decoder.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <numeric>
#include <regex>
#include <stdexcept>
#include <string_view>
#include <utility>

namespace {

constexpr std::string_view kPasts[] = {"past_key_values.", "past."};
constexpr std::string_view kPresent = "present.";
constexpr std::size_t kLengthAxis = 2;  // of keys and values

Ort::Value Row(const Ort::MemoryInfo& memory, std::vector<std::int64_t>& values) {
  const std::int64_t shape[] = {1, static_cast<std::int64_t>(values.size())};
  return Ort::Value::CreateTensor<std::int64_t>(memory, values.data(), values.size(), shape, 2);
}

std::size_t ElementBytes(ONNXTensorElementDataType type, const std::string& name) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
      return 4;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
      return 2;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8:
      return 1;
    default:
      throw std::runtime_error(name + ": expected a cache of float32, float16 or int8");
  }
}

}  // namespace

ModelFacts ModelFacts::Beside(const std::filesystem::path& model) {
  ModelFacts facts;
  std::ifstream file(model.parent_path() / "genai_config.json");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  // Two keys of a file that the exporter writes are no reason for a JSON library.
  facts.share_buffer = std::regex_search(text, std::regex(R"("past_present_share_buffer"\s*:\s*true)"));
  std::smatch found;
  if (std::regex_search(text, found, std::regex(R"("context_length"\s*:\s*(\d+))"))) {
    facts.context_length = std::stoll(found[1]);
  }
  return facts;
}

Decoder::Decoder(Ort::Env& env, const std::filesystem::path& model, const Ort::SessionOptions& options,
                 ModelFacts facts, std::int64_t capacity)
    : session_(env, model.c_str(), options),
      memory_(Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault)),
      facts_(facts),
      capacity_(capacity) {
  const std::vector<std::string> names = session_.GetInputNames();
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (names[i] == "position_ids") has_positions_ = true;
    for (const std::string_view past : kPasts) {
      if (names[i].starts_with(past)) cache_.push_back(Describe(i, past.size()));
    }
  }
  Clear();
}

Decoder::CacheTensor Decoder::Describe(std::size_t input, std::size_t prefix) const {
  CacheTensor tensor;
  tensor.past = session_.GetInputNames()[input];
  tensor.present = std::string(kPresent) + tensor.past.substr(prefix);
  const Ort::TypeInfo info = session_.GetInputTypeInfo(input);
  const auto described = info.GetTensorTypeAndShapeInfo();
  tensor.type = described.GetElementType();
  tensor.shape = described.GetShape();
  tensor.shape.at(0) = 1;
  for (std::int64_t& size : tensor.shape) size = std::max<std::int64_t>(size, 0);  // -1: as many as tokens
  tensor.shared = facts_.share_buffer && tensor.past.starts_with(kPasts[0]);
  return tensor;
}

void Decoder::Clear() {
  length_ = 0;
  for (CacheTensor& tensor : cache_) Empty(tensor);
}

// Zeros: the whole buffer, a cache of no tokens, or a state. calloc() takes memory of the system as it is written to.
void Decoder::Empty(CacheTensor& tensor) const {
  std::vector<std::int64_t> shape = tensor.shape;
  if (tensor.shared) shape.at(kLengthAxis) = capacity_;
  const auto count = std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
  const std::size_t bytes = static_cast<std::size_t>(count) * ElementBytes(tensor.type, tensor.past);
  tensor.value = Ort::Value{nullptr};
  tensor.memory.reset(std::calloc(std::max<std::size_t>(bytes, 1), 1));
  if (!tensor.memory) throw std::bad_alloc();
  tensor.value = Ort::Value::CreateTensor(memory_, tensor.memory.get(), bytes, shape.data(), shape.size(), tensor.type);
}

std::int64_t Decoder::Step(std::vector<std::int64_t> tokens) {
  const auto count = static_cast<std::int64_t>(tokens.size());
  if (facts_.share_buffer && length_ + count > capacity_) throw std::length_error("the cache is full");
  std::vector<std::int64_t> positions(tokens.size());
  std::iota(positions.begin(), positions.end(), length_);
  std::vector<std::int64_t> mask(static_cast<std::size_t>(length_ + count), 1);

  Ort::IoBinding binding(session_);
  binding.BindInput("input_ids", Row(memory_, tokens));
  binding.BindInput("attention_mask", Row(memory_, mask));
  if (has_positions_) binding.BindInput("position_ids", Row(memory_, positions));
  binding.BindOutput("logits", memory_);
  for (const CacheTensor& tensor : cache_) {
    binding.BindInput(tensor.past.c_str(), tensor.value);
    if (tensor.shared) {
      binding.BindOutput(tensor.present.c_str(), tensor.value);
    } else {
      binding.BindOutput(tensor.present.c_str(), memory_);
    }
  }
  session_.Run(Ort::RunOptions(), binding);

  std::vector<Ort::Value> outputs = binding.GetOutputValues();  // in the order in which they were bound
  for (std::size_t i = 0; i < cache_.size(); ++i) {
    if (!cache_[i].shared) cache_[i].value = std::move(outputs[i + 1]);
  }
  length_ += count;
  return Likeliest(outputs.front());
}

std::int64_t Decoder::Rewind(std::int64_t length) {
  const bool in_place = std::ranges::all_of(cache_, [](const CacheTensor& tensor) { return tensor.shared; });
  if (length < length_ && !in_place) {
    Clear();  // keys that grew, and states, would have to be cut or kept
  } else {
    length_ = std::min(length, length_);
  }
  return length_;
}

// Index of the largest value in the last row of logits.
std::int64_t Decoder::Likeliest(const Ort::Value& logits) {
  const auto info = logits.GetTensorTypeAndShapeInfo();
  const auto vocabulary = static_cast<std::size_t>(info.GetShape().back());
  const std::size_t first = info.GetElementCount() - vocabulary;
  if (info.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16) {
    const Ort::Float16_t* row = logits.GetTensorData<Ort::Float16_t>() + first;
    const auto less = [](Ort::Float16_t a, Ort::Float16_t b) { return a.ToFloat() < b.ToFloat(); };
    return std::max_element(row, row + vocabulary, less) - row;
  }
  const float* row = logits.GetTensorData<float>() + first;
  return std::max_element(row, row + vocabulary) - row;
}
