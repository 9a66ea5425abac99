// Runs an exported model from C++ with nothing but ONNX Runtime: registers the operator's library, feeds token ids and
// prints the likeliest continuation, one line of ids.
//
//   cpp_host OUT.onnx LIBRARY COUNT ID...      LIBRARY "none" runs the operator by the function inside the model
//
// The inputs are input_ids int64 [1, s], attention_mask int64 [1, t], position_ids int64 [1, s] where the model
// declares it, and past_key_values.<layer>.<key|value> [1, heads, t - s, head_size] or, of layers that carry a state,
// past.<layer>.<conv|recurrent> of fixed size; the outputs are logits [1, s, vocabulary] and present.<layer>.<...>,
// each of which is the next step's past. End-of-text tokens are the caller's business.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <iostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

constexpr std::string_view kPasts[] = {"past_key_values.", "past."};
constexpr std::string_view kPresent = "present.";
constexpr std::string_view kNoLibrary = "none";

// A decoder and what it carries from step to step: a growing key/value cache, states.
class Decoder {
 public:
  Decoder(Ort::Env& env, const std::filesystem::path& model, const Ort::SessionOptions& options)
      : session_(env, model.c_str(), options) {
    output_names_.push_back("logits");
    for (const std::string& name : session_.GetInputNames()) {
      input_names_.push_back(name);
      for (const std::string_view past : kPasts) {
        if (!name.starts_with(past)) continue;
        output_names_.push_back(std::string(kPresent) + name.substr(past.size()));
        past_.push_back(EmptyPast(input_names_.size() - 1));
      }
    }
  }

  // Appends tokens and returns the likeliest next one.
  std::int64_t Step(std::vector<std::int64_t> tokens) {
    const auto count = static_cast<std::int64_t>(tokens.size());
    std::vector<std::int64_t> positions;
    for (std::int64_t i = 0; i < count; ++i) positions.push_back(length_ + i);
    length_ += count;
    std::vector<std::int64_t> mask(static_cast<std::size_t>(length_), 1);

    std::vector<Ort::Value> inputs;
    std::size_t layer_tensor = 0;
    for (const std::string& name : input_names_) {
      if (name == "input_ids") {
        inputs.push_back(Row(tokens));
      } else if (name == "attention_mask") {
        inputs.push_back(Row(mask));
      } else if (name == "position_ids") {
        inputs.push_back(Row(positions));
      } else {
        inputs.push_back(std::move(past_[layer_tensor++]));
      }
    }
    const std::vector<const char*> input_names = Pointers(input_names_);
    const std::vector<const char*> output_names = Pointers(output_names_);
    std::vector<Ort::Value> outputs = session_.Run(Ort::RunOptions(), input_names.data(), inputs.data(), inputs.size(),
                                                   output_names.data(), output_names.size());
    std::move(outputs.begin() + 1, outputs.end(), past_.begin());
    return Likeliest(outputs.front());
  }

 private:
  static std::vector<const char*> Pointers(const std::vector<std::string>& names) {
    std::vector<const char*> pointers;
    for (const std::string& name : names) pointers.push_back(name.c_str());
    return pointers;
  }

  static Ort::Value Row(std::vector<std::int64_t>& values) {
    const std::vector<std::int64_t> shape = {1, static_cast<std::int64_t>(values.size())};
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    return Ort::Value::CreateTensor<std::int64_t>(memory, values.data(), values.size(), shape.data(), shape.size());
  }

  // [1, heads, 0, head_size], or a state of zeros, of the input's own type.
  Ort::Value EmptyPast(std::size_t input) {
    const Ort::TypeInfo type = session_.GetInputTypeInfo(input);
    const auto tensor = type.GetTensorTypeAndShapeInfo();
    std::vector<std::int64_t> shape = tensor.GetShape();
    shape[0] = 1;
    for (std::int64_t& size : shape) size = std::max<std::int64_t>(size, 0);  // -1: as many as tokens, here none
    Ort::Value value = Ort::Value::CreateTensor(allocator_, shape.data(), shape.size(), tensor.GetElementType());
    std::memset(value.GetTensorMutableRawData(), 0, value.GetTensorSizeInBytes());
    return value;
  }

  // Index of the largest value in the last row of logits [1, s, vocabulary].
  static std::int64_t Likeliest(const Ort::Value& logits) {
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

  Ort::Session session_;
  Ort::AllocatorWithDefaultOptions allocator_;
  std::vector<std::string> input_names_;
  std::vector<std::string> output_names_;
  std::vector<Ort::Value> past_;
  std::int64_t length_ = 0;
};

int Run(const std::vector<std::string>& arguments) {
  if (arguments.size() < 4) {
    std::cerr << "usage: cpp_host OUT.onnx LIBRARY|none COUNT ID...\n";
    return 2;
  }
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "cpp_host");
  Ort::SessionOptions options;
  if (arguments[1] != kNoLibrary) {
    options.RegisterCustomOpsLibrary(std::filesystem::path(arguments[1]).c_str(), Ort::CustomOpConfigs());
  }
  Decoder decoder(env, arguments[0], options);
  std::vector<std::int64_t> tokens;
  for (std::size_t i = 3; i < arguments.size(); ++i) tokens.push_back(std::stoll(arguments[i]));
  const int count = std::stoi(arguments[2]);
  for (int i = 0; i < count; ++i) {
    const std::int64_t next = decoder.Step(std::move(tokens));
    std::cout << (i == 0 ? "" : " ") << next << std::flush;
    tokens = {next};
  }
  std::cout << '\n';
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return Run({argv + 1, argv + argc});
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 1;
  }
}
