/* Plain C interface of libdualbinary_cuda, the shared object with the kernels for NVIDIA GPUs.
 *
 * libdualbinary opens it when the first node of a session is placed on the CUDA execution provider, and finds the
 * functions by dlsym; nothing links against it. Neither CUDA's nor ONNX Runtime's headers are needed here: a stream is
 * a cudaStream_t as void*, and pointers to device memory are void*.
 *
 * The same interface is built a second time, without CUDA, as libdualbinary_cuda_emulated: there the kernels run lane
 * by lane on the CPU, "device memory" is memory, and the stream is NULL. It is for tests.
 *
 * Every function that can fail returns NULL when it is done, or else a message for people, which stays valid until the
 * same thread calls this library again. On failure no handle or size is written, and what `y` and `workspace` hold
 * means nothing. */
#ifndef DUALBINARY_CUDA_H_
#define DUALBINARY_CUDA_H_

#include <stddef.h>
#include <stdint.h>

#include "capi/dualbinary.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A weight packed on one device. */
typedef struct dualbinary_cuda_weight dualbinary_cuda_weight;

/* Version of the library, and sixteen hex digits that identify the contract it was built with. Static strings. */
DUALBINARY_API const char* dualbinary_cuda_version(void);
DUALBINARY_API const char* dualbinary_cuda_digest(void);

/* One JSON object about build and devices; needs no device:
 *   version, digest, emulated (bool), architectures (those in this build, such as 90)
 *   kernels   the inventory: name, max_rows (of a call), min_capability and max_capability of devices
 *   devices   index, name, compute_capability (90 for 9.0), multiprocessors, memory (bytes)
 *   error     why there is no device, or null
 * `*json` stays valid until the same thread calls this library again. */
DUALBINARY_API const char* dualbinary_cuda_describe(const char** json);

/* Copies a weight of layout plain or codes in host memory to `device` and packs it there; both buffers may be freed
 * afterwards. Limits beyond those of the contract are in [operators.cuda] of op.toml. Waits until the device is done.
 */
DUALBINARY_API const char* dualbinary_cuda_weight_create(const dualbinary_spec* spec, const void* planes,
                                                         size_t planes_bytes, const void* scales, size_t scales_bytes,
                                                         int32_t device, dualbinary_cuda_weight** weight);

/* NULL is allowed. */
DUALBINARY_API void dualbinary_cuda_weight_destroy(dualbinary_cuda_weight* weight);

/* Bytes of device memory that the weight takes. */
DUALBINARY_API size_t dualbinary_cuda_weight_bytes(const dualbinary_cuda_weight* weight);

/* Name of the kernel that a product of `rows` rows of `type` gets; a static string, NULL where rows is 0. */
DUALBINARY_API const char* dualbinary_cuda_kernel(const dualbinary_cuda_weight* weight, int32_t type, int64_t rows);

/* Device memory that dualbinary_cuda_multiply() needs as workspace for such a call, 256-byte aligned; often 0. `kernel`
 * is a name from the inventory, or NULL for the choice of the library. */
DUALBINARY_API const char* dualbinary_cuda_workspace(const dualbinary_cuda_weight* weight, int32_t type, int64_t rows,
                                                     const char* kernel, size_t* bytes);

/* Enqueues y [rows, N] = x [rows, K] times the weight on `stream`, and returns. x and y are of `type`, a
 * dualbinary_type other than uint8, in memory of the weight's device, aligned for their elements; float16 x of more
 * than 16 rows whose K is a multiple of 8 must begin at a multiple of 16. Launches kernels on `stream` and nothing
 * else: no allocation, no synchronization, so that it can be captured into a graph. Results depend on nothing but the
 * arguments. Several threads may use one weight at once, each with its own workspace. */
DUALBINARY_API const char* dualbinary_cuda_multiply(const dualbinary_cuda_weight* weight, const void* x, int32_t type,
                                                    int64_t rows, void* y, void* workspace, size_t workspace_bytes,
                                                    void* stream, const char* kernel);

#ifdef __cplusplus
}
#endif

#endif /* DUALBINARY_CUDA_H_ */
