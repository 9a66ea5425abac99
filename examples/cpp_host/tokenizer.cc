#include "tokenizer.h"

#include <cstddef>
#include <cstdio>
#include <stdexcept>

#if defined(_WIN32)
#include <windows.h>
#else
#include <dlfcn.h>
#endif

// The functions of ort_genai_c.h that are used here. No package registry has the header; the C interface is stable.
struct Tokenizer::Api {
  const char* (*ResultGetError)(const OgaResult*);
  void (*DestroyResult)(OgaResult*);
  OgaResult* (*CreateTokenizerFromPath)(const char* folder, OgaTokenizer**);
  void (*DestroyTokenizer)(OgaTokenizer*);
  OgaResult* (*TokenizerApplyChatTemplate)(const OgaTokenizer*, const char* chat_template, const char* messages,
                                           const char* tools, bool add_generation_prompt, const char** text);
  void (*DestroyString)(const char*);
  OgaResult* (*CreateSequences)(struct OgaSequences**);
  void (*DestroySequences)(struct OgaSequences*);
  OgaResult* (*TokenizerEncode)(const OgaTokenizer*, const char*, struct OgaSequences*);
  std::size_t (*SequencesGetSequenceCount)(const struct OgaSequences*, std::size_t index);
  const std::int32_t* (*SequencesGetSequenceData)(const struct OgaSequences*, std::size_t index);
  OgaResult* (*TokenizerGetEosTokenIds)(const OgaTokenizer*, const std::int32_t**, std::size_t*);
  OgaResult* (*CreateTokenizerStream)(const OgaTokenizer*, OgaTokenizerStream**);
  void (*DestroyTokenizerStream)(OgaTokenizerStream*);
  OgaResult* (*TokenizerStreamDecode)(OgaTokenizerStream*, std::int32_t, const char**);
};

namespace {

constexpr char kWayOut[] =
    "; it is in the onnxruntime-genai package of PyPI, NuGet and Maven, 0.18 or newer: pass its path with --genai";

void* Open(const std::string& library) {
#if defined(_WIN32)
  void* handle = reinterpret_cast<void*>(LoadLibraryA(library.c_str()));
  const std::string why = handle == nullptr ? "cannot open " + library : "";
#else
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  const std::string why = handle == nullptr ? dlerror() : "";
#endif
  if (handle == nullptr) throw std::runtime_error("the tokenizer's library: " + why + kWayOut);
  return handle;
}

template <class Function>
void Find(void* handle, const char* name, Function*& function) {
#if defined(_WIN32)
  function = reinterpret_cast<Function*>(GetProcAddress(reinterpret_cast<HMODULE>(handle), name));
#else
  function = reinterpret_cast<Function*>(dlsym(handle, name));
#endif
  if (function == nullptr) throw std::runtime_error(std::string("the tokenizer's library has no ") + name + kWayOut);
}

std::string Quoted(const std::string& text) {
  std::string json = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      json += {'\\', c};
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escape[7];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
      json += escape;
    } else {
      json += c;
    }
  }
  return json + '"';
}

}  // namespace

Tokenizer::Tokenizer(const std::string& library, const std::filesystem::path& folder) {
  void* handle = Open(library);  // for the life of the process
  auto api = std::make_unique<Api>();
#define FIND(NAME) Find(handle, "Oga" #NAME, api->NAME)
  FIND(ResultGetError), FIND(DestroyResult), FIND(CreateTokenizerFromPath), FIND(DestroyTokenizer);
  FIND(TokenizerApplyChatTemplate), FIND(DestroyString), FIND(CreateSequences), FIND(DestroySequences);
  FIND(TokenizerEncode), FIND(SequencesGetSequenceCount), FIND(SequencesGetSequenceData);
  FIND(TokenizerGetEosTokenIds), FIND(CreateTokenizerStream), FIND(DestroyTokenizerStream), FIND(TokenizerStreamDecode);
#undef FIND
  api_ = std::move(api);
  Check(api_->CreateTokenizerFromPath(folder.string().c_str(), &tokenizer_));
  const std::int32_t* ends = nullptr;
  std::size_t count = 0;
  Check(api_->TokenizerGetEosTokenIds(tokenizer_, &ends, &count));
  ends_.assign(ends, ends + count);
}

Tokenizer::~Tokenizer() { api_->DestroyTokenizer(tokenizer_); }

void Tokenizer::Check(OgaResult* result) const {
  if (result == nullptr) return;
  const std::string message = api_->ResultGetError(result);
  api_->DestroyResult(result);
  throw std::runtime_error("the tokenizer: " + message);
}

std::string Tokenizer::Render(const std::vector<Message>& messages) const {
  std::string json = "[";
  for (const Message& message : messages) {
    json += json.size() > 1 ? "," : "";
    json += "{\"role\":" + Quoted(message.role) + ",\"content\":" + Quoted(message.content) + "}";
  }
  const char* text = nullptr;
  Check(api_->TokenizerApplyChatTemplate(tokenizer_, nullptr, (json + "]").c_str(), nullptr, true, &text));
  const std::string rendered = text;
  api_->DestroyString(text);
  return rendered;
}

std::vector<std::int64_t> Tokenizer::Encode(const std::string& text) const {
  struct OgaSequences* made = nullptr;
  Check(api_->CreateSequences(&made));
  const std::unique_ptr<struct OgaSequences, void (*)(struct OgaSequences*)> sequences(made, api_->DestroySequences);
  Check(api_->TokenizerEncode(tokenizer_, text.c_str(), sequences.get()));
  const std::int32_t* ids = api_->SequencesGetSequenceData(sequences.get(), 0);
  return {ids, ids + api_->SequencesGetSequenceCount(sequences.get(), 0)};
}

Tokenizer::Stream::Stream(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {
  tokenizer_.Check(tokenizer_.api_->CreateTokenizerStream(tokenizer_.tokenizer_, &stream_));
}

Tokenizer::Stream::~Stream() { tokenizer_.api_->DestroyTokenizerStream(stream_); }

std::string_view Tokenizer::Stream::Next(std::int64_t token) {
  const char* piece = nullptr;
  tokenizer_.Check(tokenizer_.api_->TokenizerStreamDecode(stream_, static_cast<std::int32_t>(token), &piece));
  return piece;
}
