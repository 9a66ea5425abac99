// Runs an exported model from C++ with ONNX Runtime and the operators' library.
//
//   cpp_host OUT.onnx LIBRARY COUNT ID...            the likeliest COUNT tokens after these, one line of ids
//   cpp_host --chat OUT.onnx LIBRARY [OPTION...]     a conversation; needs the library of onnxruntime-genai for text
//
// LIBRARY "none" runs the operators by the functions inside the model. Options of --chat: see kUsage.
#include <cstdint>
#include <exception>
#include <iostream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "chat.h"
#include "decoder.h"
#include "host.h"

namespace {

constexpr char kUsage[] =
    "usage: cpp_host OUT.onnx LIBRARY|none COUNT ID...\n"
    "       cpp_host --chat OUT.onnx LIBRARY|none [--genai FILE] [--system TEXT] [--max-tokens N] [--context N]\n"
    "                [--threads N] [--ids]\n";

struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

std::int64_t Number(const std::string& text, const std::string& what, std::int64_t least = 0) {
  std::size_t end = 0;
  std::int64_t number = -1;
  try {
    number = std::stoll(text, &end);
  } catch (const std::exception&) {
    end = 0;
  }
  if (end != text.size() || number < 0) throw UsageError(what + ": expected a number, got '" + text + "'");
  if (number < least) throw UsageError(what + ": expected at least " + std::to_string(least) + ", got " + text);
  return number;
}

int PrintIds(const std::vector<std::string>& arguments) {
  std::vector<std::int64_t> tokens;
  for (std::size_t i = 3; i < arguments.size(); ++i) tokens.push_back(Number(arguments[i], "a token id"));
  const std::int64_t count = Number(arguments[2], "COUNT");
  const ModelFacts facts = ModelFacts::Beside(arguments[0]);
  const auto capacity = static_cast<std::int64_t>(tokens.size()) + count;
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "cpp_host");
  Decoder decoder(env, arguments[0], MakeSessionOptions(arguments[1], 0), facts, capacity);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t next = decoder.Step(std::move(tokens));
    std::cout << (i == 0 ? "" : " ") << next << std::flush;
    tokens = {next};
  }
  std::cout << '\n';
  return 0;
}

ChatOptions ReadOptions(const std::vector<std::string>& arguments) {
  ChatOptions options;
  options.model = arguments[1];
  options.library = arguments[2];
  for (std::size_t i = 3; i < arguments.size(); ++i) {
    const std::string& name = arguments[i];
    if (name == "--ids") {
      options.show_ids = true;
      continue;
    }
    if (i + 1 == arguments.size()) throw UsageError(name + ": expected a value behind it");
    const std::string& value = arguments[++i];
    if (name == "--genai") {
      options.genai = value;
    } else if (name == "--system") {
      options.system = value;
    } else if (name == "--max-tokens") {
      options.max_tokens = Number(value, name, 1);
    } else if (name == "--context") {
      options.context = Number(value, name);
    } else if (name == "--threads") {
      options.threads = static_cast<int>(Number(value, name));
    } else {
      throw UsageError(name + ": no such option");
    }
  }
  return options;
}

int Run(const std::vector<std::string>& arguments) {
  const bool chat = !arguments.empty() && arguments[0] == "--chat";
  if (arguments.size() < (chat ? 3u : 4u)) throw UsageError("too few arguments");
  return chat ? Chat(ReadOptions(arguments)) : PrintIds(arguments);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return Run({argv + 1, argv + argc});
  } catch (const UsageError& error) {
    std::cerr << kUsage << "error: " << error.what() << '\n';
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 1;
  }
}
