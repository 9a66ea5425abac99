#include "ort/cuda_library.h"

#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>

#include "contract.h"

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace dualbinary {
namespace {

constexpr char kVariable[] = "DUALBINARY_CUDA_LIBRARY";
constexpr char kRebuild[] = "; build it and libdualbinary from one version, or use the CPU provider";

#if defined(_WIN32)

constexpr char kFileName[] = "libdualbinary_cuda.dll";
using Object = HMODULE;

std::string last_error() { return std::system_category().message(static_cast<int>(GetLastError())); }

Object open(const std::filesystem::path& path) {
  return LoadLibraryExW(path.c_str(), nullptr,
                        LOAD_WITH_ALTERED_SEARCH_PATH);  // its neighbors are looked for beside it
}

void* find(Object object, const char* name) { return reinterpret_cast<void*>(GetProcAddress(object, name)); }

void close(Object object) { FreeLibrary(object); }

std::filesystem::path own_path() {
  constexpr DWORD kLongestPath = 32768;
  HMODULE own = nullptr;
  std::wstring name(kLongestPath, L'\0');
  constexpr DWORD kByAddress = GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT;
  if (GetModuleHandleExW(kByAddress, reinterpret_cast<LPCWSTR>(&kVariable), &own) == 0) return {};
  name.resize(GetModuleFileNameW(own, name.data(), kLongestPath));
  return name;
}

#else

#if defined(__APPLE__)
constexpr char kFileName[] = "libdualbinary_cuda.dylib";
#else
constexpr char kFileName[] = "libdualbinary_cuda.so";
#endif
using Object = void*;

std::string last_error() {
  const char* text = dlerror();
  return text == nullptr ? "unknown error" : text;
}

Object open(const std::filesystem::path& path) { return dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL); }

void* find(Object object, const char* name) { return dlsym(object, name); }

void close(Object object) { dlclose(object); }

// Of the file that this code is in: libdualbinary, or the program where it is linked statically.
std::filesystem::path own_path() {
  Dl_info info{};
  return dladdr(&kVariable, &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : "";
}

#endif

bool is_there(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

std::filesystem::path library_path() {
  const char* named = std::getenv(kVariable);
  if (named != nullptr && *named != '\0') {
    if (!is_there(named)) {
      throw std::runtime_error(std::string(kVariable) + "=" + named +
                               ": no such file; name libdualbinary_cuda, or use the CPU provider");
    }
    return std::filesystem::absolute(named);  // a bare name would be looked for in the system's directories
  }
  // Without a folder it would be a file of the current directory.
  const std::filesystem::path folder = own_path().parent_path();
  const std::filesystem::path path = folder / kFileName;
  if (folder.empty() || !is_there(path)) {
    throw std::runtime_error("there is no " + path.string() +
                             ", so no CUDA kernels; build with -DDUALBINARY_CUDA=ON, name the file in " + kVariable +
                             ", or use the CPU provider");
  }
  return path;
}

template <class Function>
void bind(Object object, const std::string& file, const char* name, Function& function) {
  function = reinterpret_cast<Function>(find(object, name));
  if (function == nullptr) throw std::runtime_error(file + " has no function " + name + kRebuild);
}

CudaLibrary bind_all(Object object, const std::string& file) {
  CudaLibrary library{};
  bind(object, file, "dualbinary_cuda_digest", library.digest);
  const std::string digest = library.digest();
  if (digest != contract::kDigest) {
    throw std::runtime_error(file + " was built from contract " + digest + ", libdualbinary from " + contract::kDigest +
                             kRebuild);
  }
  bind(object, file, "dualbinary_cuda_weight_create", library.weight_create);
  bind(object, file, "dualbinary_cuda_weight_destroy", library.weight_destroy);
  bind(object, file, "dualbinary_cuda_workspace", library.workspace);
  bind(object, file, "dualbinary_cuda_multiply", library.multiply);
  return library;
}

CudaLibrary load() {
  const std::filesystem::path path = library_path();
  const Object object = open(path);
  if (object == nullptr) {
    throw std::runtime_error(path.string() + " cannot be opened: " + last_error() +
                             "; install the CUDA runtime that it was built with, or use the CPU provider");
  }
  try {
    return bind_all(object, path.string());
  } catch (...) {
    close(object);
    throw;
  }
}

}  // namespace

const CudaLibrary& cuda_library() {
  static std::mutex mutex;
  static std::optional<CudaLibrary> library;
  const std::lock_guard lock(mutex);
  if (!library) library = load();
  return *library;
}

}  // namespace dualbinary
