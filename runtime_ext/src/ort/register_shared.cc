// The entry point that all shared libraries of operators have, and so no static one.
#include "capi/dualbinary_onnxruntime.h"

extern "C" {

// The symbol that SessionOptions.register_custom_ops_library and RegisterCustomOpsLibrary_V2 look for.
DUALBINARY_API OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  return RegisterDualBinaryCustomOps(options, base);
}
}
