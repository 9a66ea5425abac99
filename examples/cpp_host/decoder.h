// A decoder in ONNX Runtime: tokens in, the likeliest next token out, and the cache in between.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

// What the files beside a model say about it (genai_config.json); a model without the file has a growing cache.
struct ModelFacts {
  bool share_buffer = false;        // past and present keys and values may be one buffer of the full length
  std::int64_t context_length = 0;  // in tokens, prompt and answer together; 0 where unknown

  static ModelFacts Beside(const std::filesystem::path& model);
};

// One sequence. The inputs are input_ids int64 [1, s], attention_mask int64 [1, t], position_ids int64 [1, s] where the
// model declares it, and past_key_values.<layer>.<key|value> [1, heads, length, head_size] or, of layers that carry a
// state, past.<layer>.<conv|recurrent> of fixed size; the outputs are logits [1, 1 or s, vocabulary] and
// present.<layer>.<...>. With a shared buffer `length` is the capacity, and a step writes its s rows in place; else the
// cache grows, and each present is the next step's past.
class Decoder {
 public:
  // Room for `capacity` tokens where the buffer is shared. Throws Ort::Exception where the model cannot be loaded.
  Decoder(Ort::Env& env, const std::filesystem::path& model, const Ort::SessionOptions& options, ModelFacts facts,
          std::int64_t capacity);

  // Appends tokens and returns the likeliest next one. Throws std::length_error where there is no room.
  std::int64_t Step(std::vector<std::int64_t> tokens);

  // Goes back to the first `length` tokens, or to none where this cache cannot go back; returns how many are left.
  std::int64_t Rewind(std::int64_t length);

  std::int64_t length() const { return length_; }

 private:
  struct CacheTensor {
    std::string past;
    std::string present;
    ONNXTensorElementDataType type;
    std::vector<std::int64_t> shape;  // of one sequence; 0 in place of the tokens of keys and values
    bool shared;                      // one buffer for past and present
    std::unique_ptr<void, decltype(&std::free)> memory{nullptr, &std::free};
    Ort::Value value{nullptr};
  };

  void Clear();
  void Empty(CacheTensor& tensor) const;
  CacheTensor Describe(std::size_t input, std::size_t prefix) const;
  static std::int64_t Likeliest(const Ort::Value& logits);

  Ort::Session session_;
  Ort::MemoryInfo memory_;
  ModelFacts facts_;
  std::int64_t capacity_;
  bool has_positions_ = false;
  std::vector<CacheTensor> cache_;
  std::int64_t length_ = 0;
};
