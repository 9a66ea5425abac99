#include "chat.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <iostream>
#include <stdexcept>
#include <utility>
#include <vector>

#include "decoder.h"
#include "host.h"
#include "tokenizer.h"

#if defined(_WIN32)
#include <io.h>
#define isatty _isatty
#else
#include <unistd.h>
#endif

namespace {

constexpr std::int64_t kPromptPiece = 256;  // attention holds scores of so many tokens at once
constexpr std::int64_t kUsualContext = 4096;

volatile std::sig_atomic_t interrupted = 0;

void Interrupt(int) { interrupted = 1; }

// While it lives, Ctrl-C ends an answer; else it ends the program, as everywhere.
class CatchInterrupts {
 public:
  CatchInterrupts() {
    interrupted = 0;
    std::signal(SIGINT, Interrupt);
  }
  ~CatchInterrupts() { std::signal(SIGINT, SIG_DFL); }
};

void ShowIds(const char* what, const std::vector<std::int64_t>& ids) {
  std::cerr << what;
  for (const std::int64_t id : ids) std::cerr << ' ' << id;
  std::cerr << '\n';
}

class Conversation {
 public:
  explicit Conversation(const ChatOptions& options)
      : options_(options),
        env_(ORT_LOGGING_LEVEL_ERROR, "cpp_host"),
        facts_(ModelFacts::Beside(options.model)),
        context_(Context(options, facts_)),
        decoder_(env_, options.model, MakeSessionOptions(options.library, options.threads), facts_, context_),
        tokenizer_(options.genai, options.model.parent_path()) {
    Reset();
  }

  void Reset() {
    messages_.clear();
    if (!options_.system.empty()) messages_.push_back({"system", options_.system});
  }

  // Writes the answer as it comes. A line that leaves no room for an answer is not kept.
  void Say(const std::string& line) {
    messages_.push_back({"user", line});
    const std::vector<std::int64_t> prompt = tokenizer_.Encode(tokenizer_.Render(messages_));
    if (options_.show_ids) ShowIds("prompt:", prompt);
    const auto room = context_ - static_cast<std::int64_t>(prompt.size());
    if (room < 1) {
      messages_.pop_back();
      throw std::length_error("the conversation has " + std::to_string(prompt.size()) +
                              " tokens, and there is room for " + std::to_string(context_) + ": /reset begins anew");
    }
    messages_.push_back({"assistant", Answer(prompt, std::min(room, options_.max_tokens))});
  }

 private:
  static std::int64_t Context(const ChatOptions& options, const ModelFacts& facts) {
    const std::int64_t known = facts.context_length > 0 ? facts.context_length : kUsualContext;
    return options.context > 0 ? std::min(options.context, known) : std::min(kUsualContext, known);
  }

  std::string Answer(const std::vector<std::int64_t>& prompt, std::int64_t limit) {
    std::int64_t next = Read(prompt);
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::int64_t> ids;
    std::string text;
    Tokenizer::Stream stream(tokenizer_);
    while (!interrupted && std::ranges::find(tokenizer_.ends(), next) == tokenizer_.ends().end()) {
      ids.push_back(next);
      const std::string_view piece = stream.Next(next);
      text += piece;
      std::cout << piece << std::flush;
      if (static_cast<std::int64_t>(ids.size()) == limit) break;
      next = decoder_.Step({next});
      in_cache_.push_back(ids.back());
    }
    std::cout << std::endl;
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    if (options_.show_ids) ShowIds("answer:", ids);
    if (isatty(2)) std::cerr << "[" << ids.size() << " tokens, " << ids.size() / seconds.count() << " a second]\n";
    return text;
  }

  // Gives the model what it has not read of the prompt, at least the last token, and returns the likeliest next one.
  std::int64_t Read(const std::vector<std::int64_t>& prompt) {
    const auto most = prompt.begin() + static_cast<std::ptrdiff_t>(std::min(in_cache_.size(), prompt.size() - 1));
    const auto shared = std::mismatch(prompt.begin(), most, in_cache_.begin()).first - prompt.begin();
    in_cache_.resize(static_cast<std::size_t>(decoder_.Rewind(shared)));
    std::int64_t next = 0;
    while (in_cache_.size() < prompt.size() && !interrupted) {
      const auto from = prompt.begin() + static_cast<std::ptrdiff_t>(in_cache_.size());
      const auto count = std::min<std::ptrdiff_t>(kPromptPiece, prompt.end() - from);
      next = decoder_.Step({from, from + count});
      in_cache_.insert(in_cache_.end(), from, from + count);
    }
    return next;
  }

  ChatOptions options_;
  Ort::Env env_;
  ModelFacts facts_;
  std::int64_t context_;
  Decoder decoder_;
  Tokenizer tokenizer_;
  std::vector<Message> messages_;
  std::vector<std::int64_t> in_cache_;
};

}  // namespace

int Chat(const ChatOptions& options) {
  Conversation conversation(options);
  const bool terminal = isatty(0);
  if (terminal) std::cerr << "/reset begins anew; Ctrl-C ends an answer, Ctrl-D the program\n";
  std::string line;
  while (true) {
    if (terminal) std::cerr << "> " << std::flush;
    if (!std::getline(std::cin, line)) return 0;
    if (line.empty()) continue;
    if (line == "/reset") {
      conversation.Reset();
      continue;
    }
    try {
      const CatchInterrupts here;
      conversation.Say(line);
    } catch (const std::length_error& error) {
      std::cerr << error.what() << '\n';
    }
  }
}
