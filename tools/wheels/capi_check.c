/* Loads a library of ours and multiplies with it: for systems where no ONNX Runtime can be had.
 *
 *   capi_check LIBRARY PROBLEM
 *
 * PROBLEM holds int64 numbers: the eleven fields of dualbinary_spec, the rows M, the bytes of planes and of scales;
 * then planes, scales, and the rows X float32 [M, K]. The output is a line of the version and the kernel, and then
 * Y [M, N], each number's eight hexadecimal digits on a line, so that results can be compared bit by bit. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "capi/dualbinary.h"

#if defined(_WIN32)
#include <windows.h>
static void* open_library(const char* path) { return (void*)LoadLibraryA(path); }
static void* symbol(void* library, const char* name) { return (void*)GetProcAddress((HMODULE)library, name); }
#else
#include <dlfcn.h>
static void* open_library(const char* path) { return dlopen(path, RTLD_NOW); }
static void* symbol(void* library, const char* name) { return dlsym(library, name); }
#endif

static void fail(const char* what) {
  fprintf(stderr, "capi_check: %s\n", what);
  exit(1);
}

static void* bytes(FILE* file, size_t count) {
  void* memory = malloc(count + 1);
  if (memory == NULL || fread(memory, 1, count, file) != count) fail("the problem is too short");
  return memory;
}

int main(int count, char** arguments) {
  if (count != 3) fail("expected LIBRARY PROBLEM");
  void* library = open_library(arguments[1]);
  FILE* file = fopen(arguments[2], "rb");
  if (library == NULL || file == NULL) fail("the library or the problem cannot be opened");
  const char* (*version)(void) = (const char* (*)(void))symbol(library, "dualbinary_version");
  const char* (*create)(const dualbinary_spec*, const void*, size_t, const void*, size_t, const char*,
                        dualbinary_weight**) = symbol(library, "dualbinary_weight_create");
  const char* (*kernel)(const dualbinary_weight*) = symbol(library, "dualbinary_weight_kernel");
  const char* (*multiply)(const dualbinary_weight*, const void*, int32_t, int64_t, void*, dualbinary_parallel_for,
                          void*) = symbol(library, "dualbinary_multiply");
  if (!version || !create || !kernel || !multiply) fail("the library lacks a function");

  const int64_t* n = bytes(file, 14 * sizeof(int64_t));
  dualbinary_spec spec;
  memset(&spec, 0, sizeof spec);
  memcpy(&spec, n, 10 * sizeof(int64_t)); /* the fields are declared in this order */
  spec.scale_type = (int32_t)n[10];
  const int64_t rows = n[11];
  void* planes = bytes(file, (size_t)n[12]);
  void* scales = bytes(file, (size_t)n[13]);
  float* x = bytes(file, (size_t)(rows * spec.K) * sizeof(float));
  float* y = calloc((size_t)(rows * spec.N), sizeof(float));

  dualbinary_weight* weight = NULL;
  const char* message = create(&spec, planes, (size_t)n[12], scales, (size_t)n[13], NULL, &weight);
  if (message == NULL) message = multiply(weight, x, DUALBINARY_FLOAT32, rows, y, NULL, NULL);
  if (message != NULL) fail(message);
  printf("%s %s\n", version(), kernel(weight));
  for (int64_t i = 0; i < rows * spec.N; ++i) {
    uint32_t bits;
    memcpy(&bits, &y[i], sizeof bits);
    printf("%08x\n", bits);
  }
  return 0;
}
