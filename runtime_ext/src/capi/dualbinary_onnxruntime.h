/* The operators' registration in ONNX Runtime, for programs that link the library, shared or static, in place of
 * having ONNX Runtime open its file. Needs no header of ONNX Runtime; the types are those of onnxruntime_c_api.h.
 *
 *   OrtStatus* status = RegisterDualBinaryCustomOps(options, OrtGetApiBase());    before the session is created
 *
 * A call like this one links all that the operators need. RegisterCustomOpsUsingFunction of ONNX Runtime, which the
 * interfaces of Objective-C, Java and C# have too, looks the function up by its name in the running program instead,
 * which no linker sees: the CMake target dualbinary::static and the pkg-config package dualbinary-static have the
 * options that keep the function and let it be found. */
#ifndef DUALBINARY_ONNXRUNTIME_H_
#define DUALBINARY_ONNXRUNTIME_H_

#include "dualbinary.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Adds the operators to `options`, an OrtSessionOptions*; `base` is what OrtGetApiBase() returns. NULL when it is done,
 * or an OrtStatus* that the caller releases. A runtime older than 1.17 gets no operators and no error: there the
 * functions inside the model run. May be called by several threads, and for any number of sessions. */
struct OrtStatus;
struct OrtSessionOptions;
struct OrtApiBase;
DUALBINARY_API struct OrtStatus* RegisterDualBinaryCustomOps(struct OrtSessionOptions* options,
                                                             const struct OrtApiBase* base);

#ifdef __cplusplus
}
#endif

#endif /* DUALBINARY_ONNXRUNTIME_H_ */
