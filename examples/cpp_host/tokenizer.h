// Text and tokens, by the tokenizer and the template engine of onnxruntime-genai.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

struct Message {
  std::string role;  // system, user or assistant
  std::string content;
};

// The tokenizer of a model folder. Its library is opened when it is asked for, so that programs that need no text need
// no library; ONNX Runtime has to be in the process before.
class Tokenizer {
 public:
  // `library` is a path, or a name for the system's search. Throws std::runtime_error where the library cannot be
  // opened or the folder has no tokenizer that it knows.
  Tokenizer(const std::string& library, const std::filesystem::path& folder);
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // The conversation and the head of an answer, by the model's chat template. Throws where there is none.
  std::string Render(const std::vector<Message>& messages) const;
  std::vector<std::int64_t> Encode(const std::string& text) const;
  const std::vector<std::int64_t>& ends() const { return ends_; }  // tokens that end an answer

  // Pieces of a text, token by token; a character of several tokens comes with its last one.
  class Stream {
   public:
    explicit Stream(const Tokenizer& tokenizer);
    ~Stream();
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    std::string_view Next(std::int64_t token);  // valid until the next call

   private:
    const Tokenizer& tokenizer_;
    struct OgaTokenizerStream* stream_ = nullptr;
  };

 private:
  struct Api;
  void Check(struct OgaResult* result) const;

  std::unique_ptr<const Api> api_;
  struct OgaTokenizer* tokenizer_ = nullptr;
  std::vector<std::int64_t> ends_;
};
