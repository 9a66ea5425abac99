// JSON text from C++ values, as far as describe() of both libraries needs it.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

namespace dualbinary::json {

// Control characters become spaces.
inline std::string quoted(std::string_view text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
  }
  return result + "\"";
}

inline std::string boolean(bool value) { return value ? "true" : "false"; }

// Values are JSON already.
inline std::string object(std::initializer_list<std::pair<std::string_view, std::string>> members) {
  std::string result;
  for (const auto& [name, value] : members) result += (result.empty() ? "" : ", ") + quoted(name) + ": " + value;
  return "{" + result + "}";
}

// An array of to_json(item) for each item of the list.
template <class List, class ToJson>
std::string array(const List& list, const ToJson& to_json) {
  std::string result;
  for (const auto& item : list) result += (result.empty() ? "" : ", ") + to_json(item);
  return "[" + result + "]";
}

}  // namespace dualbinary::json
