// Between C++ exceptions and OrtStatus. No exception may cross a frame of ONNX Runtime.
#pragma once

#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>

#include "onnxruntime_c_api.h"

namespace dualbinary {

// The version of ONNX Runtime's C API version that this library uses: 1.17, the first with all that the op needs. Older
// runtimes refuse a struct that claims more than they know.
inline constexpr std::uint32_t kOrtApiVersion = 17;
// The first with what the op needs on CUDA devices: their allocators, and scratch memory in the order of a stream.
inline constexpr std::uint32_t kCudaApiVersion = 18;

// A failed call to ONNX Runtime, whose status passes through unchanged.
class OrtFailure : public std::runtime_error {
 public:
  OrtFailure(OrtErrorCode code, const char* message) : std::runtime_error(message), code_(code) {}
  OrtErrorCode code() const { return code_; }

 private:
  OrtErrorCode code_;
};

// Throws where a call failed.
inline void check(const OrtApi& api, OrtStatus* status) {
  if (status == nullptr) return;
  const OrtFailure failure(api.GetErrorCode(status), api.GetErrorMessage(status));
  api.ReleaseStatus(status);
  throw failure;
}

// A status of `where` and `what`; of `what` alone where there is no memory for both.
inline OrtStatus* new_status(const OrtApi& api, OrtErrorCode code, std::string_view where, const char* what) noexcept {
  try {
    return api.CreateStatus(code, std::string(where).append(what).c_str());
  } catch (const std::exception&) {
    return api.CreateStatus(code, what);
  }
}

// Runs `body`; an exception becomes a status whose message starts with `where`.
template <class Body>
OrtStatus* guarded(const OrtApi& api, std::string_view where, const Body& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const OrtFailure& error) {
    return new_status(api, error.code(), where, error.what());
  } catch (const std::invalid_argument& error) {
    return new_status(api, ORT_INVALID_ARGUMENT, where, error.what());
  } catch (const std::bad_alloc&) {
    return new_status(api, ORT_FAIL, where, "out of memory");
  } catch (const std::exception& error) {
    return new_status(api, ORT_FAIL, where, error.what());
  }
}

// Owns what the API gives out and has a Release function for.
template <class T>
using Owned = std::unique_ptr<T, void(ORT_API_CALL*)(T*)>;

}  // namespace dualbinary
