// A conversation at the terminal.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

struct ChatOptions {
  std::filesystem::path model;
  std::string library;                            // of the operators, or "none"
  std::string genai = "libonnxruntime-genai.so";  // the tokenizer's library
  std::string system;                             // first message, none if empty
  std::int64_t max_tokens = 512;                  // of an answer
  std::int64_t context = 0;  // tokens of prompt and answer together; 0: what the model has, up to 4096
  int threads = 0;           // 0: one per core
  bool show_ids = false;     // token ids of prompts and answers, to standard error
};

// Reads lines from standard input and answers each until the input ends; returns the exit code. /reset begins anew, and
// Ctrl-C ends an answer, or at the prompt the program.
int Chat(const ChatOptions& options);
