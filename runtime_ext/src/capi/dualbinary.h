/* Plain C interface to the kernels of the operators, for other runtimes, tests and benchmarks. That of the kernels
 * for CUDA devices is dualbinary_cuda.h.
 *
 *   Y[m,n] = sum over groups g of ( sum over planes p of scales[p,n,g] * sum over k in g of planes[p,n,k] * X[m,k] )
 *            + sum over g of scales[P,n,g] * sum over k in g of X[m,k]            only where scales has P+1 rows
 *
 * Those are free levels. A weight of even levels has one row of scales, the steps, and stands for step * (q - zero)
 * with q = sum over p of 2^p * planes[p]; or for step * q + offset, where a second row of scales has the offsets.
 *
 * Every function that can fail returns NULL when it is done, or else a message for people, which stays valid until the
 * same thread calls this library again. On failure no handle is written, and what `y` holds means nothing. */
#ifndef DUALBINARY_H_
#define DUALBINARY_H_

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#if defined(DUALBINARY_BUILDING)
#define DUALBINARY_API __declspec(dllexport)
#else
#define DUALBINARY_API
#endif
#else
#define DUALBINARY_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* DUALBINARY_UINT8 is for scales alone; activations of DUALBINARY_BFLOAT16 are for CUDA devices alone. */
typedef enum {
  DUALBINARY_FLOAT32 = 0,
  DUALBINARY_FLOAT16 = 1,
  DUALBINARY_UINT8 = 2,
  DUALBINARY_BFLOAT16 = 3
} dualbinary_type;

/* The weight [N, K]. `planes` is uint8 [P, N, Kp/8], `scales` is [C, N, Kp/G] with Kp = K rounded up to G = group_size.
 * Scales of type uint8 are [C, N, 2 + Kp/G]: each row a finite float16 factor, low byte first, and codes; the scale is
 * factor * (code - 128) / 128. Where every group has a zero point, a row of a plane ends with one bit for each group,
 * in whole bytes, and the P bits of a group are its zero point. In a layout of blocks `planes` is uint8 [B, bytes of a
 * block] with scales and zero points inside, and `scales` is empty. In layout codes `planes` is uint8
 * [N, Kp/G + E, G*P/8], the numbers q of even levels of 2, 4 or 8 bits as MatMulNBits packs them; E groups behind those
 * of the inputs hold the zero points as codes, where every group has one. docs/layouts.md has all byte by byte. */
typedef struct {
  int64_t K;
  int64_t N;
  int64_t group_size;     /* G: a multiple of 32, at most K rounded up to one; or 16 with even levels */
  int64_t planes;         /* P: 1 to 8 */
  int64_t scale_rows;     /* C: P, or 1 for even levels; one more where the last row is the offset */
  int64_t layout;         /* 1: plain; 2, 3, 4: blocks for AVX-512, AVX2, NEON; 5: codes */
  int64_t accuracy_level; /* 0: activations keep 15 bits or better; 4: int8 */
  int64_t levels;         /* 0: free; 1: even */
  int64_t twice_zero;     /* 0; with even levels twice the zero point, up to 2 * (2^P - 1); -1: one for each group */
  int64_t scale_outputs; /* N; or 1 where [C, 1, ..] scales of even levels, one group a row, are those of all outputs */
  int32_t scale_type;    /* a dualbinary_type */
} dualbinary_spec;

/* A weight prepared for one kernel. */
typedef struct dualbinary_weight dualbinary_weight;

/* One step of a parallel loop. */
typedef void (*dualbinary_task)(void* data, size_t index);

/* A parallel loop of the caller: calls task(data, i) for every i in [0, count), on any threads in any order, and
 * returns when all calls have returned. `pool` is what the caller gave to dualbinary_multiply. */
typedef void (*dualbinary_parallel_for)(void* pool, dualbinary_task task, void* data, size_t count);

/* Version of the library, and sixteen hex digits that identify the contract it was built with. Static strings. */
DUALBINARY_API const char* dualbinary_version(void);
DUALBINARY_API const char* dualbinary_digest(void);

/* One JSON object about build, CPU, inventory of kernels and choice; see core/describe.h for its fields. `*json` stays
 * valid until the same thread calls this library again. Fails where DUALBINARY_ISA asks for what is not there. */
DUALBINARY_API const char* dualbinary_describe(const char** json);

/* Checks and packs a weight; weights of equal content share the packed copy, and large ones are packed by several new
 * threads. `kernel` is a name from the inventory, or NULL for the best; then calls of many rows may be
 * given to another kernel that reads the same packed form. The sizes are those of the two buffers, which must stay
 * readable and unchanged until the weight is destroyed, and be aligned for their elements. Blocks are used where they
 * are, without a copy if they start at a multiple of 64 bytes. */
DUALBINARY_API const char* dualbinary_weight_create(const dualbinary_spec* spec, const void* planes,
                                                    size_t planes_bytes, const void* scales, size_t scales_bytes,
                                                    const char* kernel, dualbinary_weight** weight);

/* NULL is allowed. */
DUALBINARY_API void dualbinary_weight_destroy(dualbinary_weight* weight);

/* Name of the kernel that the weight was packed for; a static string. */
DUALBINARY_API const char* dualbinary_weight_kernel(const dualbinary_weight* weight);

/* Bytes that the kernel reads of the weight for one product: its packed form, or the stored one. */
DUALBINARY_API size_t dualbinary_weight_bytes(const dualbinary_weight* weight);

/* y [rows, N] = x [rows, K] times the weight; both are of `type`, a dualbinary_type, and aligned for it. `parallel_for`
 * may be NULL: then the calling thread does everything. Several threads may use one weight at once. */
DUALBINARY_API const char* dualbinary_multiply(const dualbinary_weight* weight, const void* x, int32_t type,
                                               int64_t rows, void* y, dualbinary_parallel_for parallel_for, void* pool);

/* The transform of SignedHadamard over rows of K inputs. */
typedef struct {
  int64_t K;
  int64_t block_size; /* a power of two from 2 to 32768 that divides K */
  int64_t inverse;    /* 0: signs, then the transform; 1: the transform, then signs */
} dualbinary_hadamard;

/* y [rows, K] = the transform of x [rows, K]; both are of `type`, float32 or float16. `signs` [K] are 1 or -1. `kernel`
 * is a name from hadamard_kernels of dualbinary_describe, or NULL for the best; all give the same numbers, bit by bit
 * but for what is no number. The rest is as in dualbinary_multiply. */
DUALBINARY_API const char* dualbinary_signed_hadamard(const dualbinary_hadamard* hadamard, const int8_t* signs,
                                                      const char* kernel, const void* x, int32_t type, int64_t rows,
                                                      void* y, dualbinary_parallel_for parallel_for, void* pool);

#ifdef __cplusplus
}
#endif

#endif /* DUALBINARY_H_ */
