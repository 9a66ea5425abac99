// Shared by the plain C interfaces: exceptions become messages, and what comes from callers is checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>

namespace dualbinary::capi {

// Of the last failure in this thread.
inline thread_local std::string last_message;

// What `error` says, kept for this thread.
inline const char* message_of(const std::exception& error, const char* out_of_memory) noexcept {
  try {
    last_message = error.what();
  } catch (const std::bad_alloc&) {
    return out_of_memory;
  }
  return last_message.c_str();
}

// Runs `body`; an exception becomes a message, as none may cross a C frame.
template <class Body>
const char* guarded(const char* out_of_memory, const Body& body) {
  try {
    body();
    return nullptr;
  } catch (const std::bad_alloc&) {
    return out_of_memory;
  } catch (const std::exception& error) {
    return message_of(error, out_of_memory);
  }
}

inline void require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

inline void require_bytes(const char* name, const void* data, std::size_t bytes, std::uint64_t expected) {
  require(data != nullptr || expected == 0, std::string(name) + " is NULL");
  require(bytes == expected,
          std::string(name) + ": expected " + std::to_string(expected) + " bytes, got " + std::to_string(bytes));
}

}  // namespace dualbinary::capi
