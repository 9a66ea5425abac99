// What both modes of the program share.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <filesystem>
#include <string>

constexpr char kNoLibrary[] = "none";

// Options of a session with the operators' library, or without one where it is kNoLibrary.
inline Ort::SessionOptions MakeSessionOptions(const std::string& library, int threads) {
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(threads);
  options.DisableMemPattern();  // a plan is kept for every new length of the mask
  if (library != kNoLibrary) {
    options.RegisterCustomOpsLibrary(std::filesystem::path(library).c_str(), Ort::CustomOpConfigs());
  }
  return options;
}
