/* ONNX Runtime's Java glue for Android, on Linux: it asks for a few functions under the names and versions of Android's
 * libraries, and this file, compiled once for each of them, passes the calls on (jvm.py). */
#include <stddef.h>

#define AS(name, version) __asm__(".symver passed_" #name "," #name "@" version)

#if defined(LIBC)

#define PASS(type, name, parameters, arguments)            \
  type name parameters;                                    \
  type passed_##name parameters { return name arguments; } \
  AS(name, "LIBC")

PASS(void*, malloc, (size_t size), (size));
PASS(void*, realloc, (void* memory, size_t size), (memory, size));
PASS(void*, memcpy, (void* to, const void* from, size_t size), (to, from, size));
PASS(size_t, strlen, (const char* text), (text));
PASS(void, free, (void* memory), (memory));
PASS(void, __stack_chk_fail, (void), ());
PASS(void, __cxa_finalize, (void* handle), (handle));
PASS(int, __cxa_atexit, (void (*function)(void*), void* argument, void* handle), (function, argument, handle));
PASS(int, __register_atfork, (void (*prepare)(void), void (*parent)(void), void (*child)(void), void* handle),
     (prepare, parent, child, handle));

#elif defined(LIBDL)

int dlclose(void* handle);
int passed_dlclose(void* handle) { return dlclose(handle); }
AS(dlclose, "LIBC");

#elif defined(ONNXRUNTIME)

const void* OrtGetApiBase(void);
const void* passed_OrtGetApiBase(void) { return OrtGetApiBase(); }
AS(OrtGetApiBase, ONNXRUNTIME);
/* Providers by functions of their own: nobody calls these. */
void* passed_OrtSessionOptionsAppendExecutionProvider_CPU(void* options, int arena) { return NULL; }
AS(OrtSessionOptionsAppendExecutionProvider_CPU, ONNXRUNTIME);
void* passed_OrtSessionOptionsAppendExecutionProvider_Nnapi(void* options, unsigned flags) { return NULL; }
AS(OrtSessionOptionsAppendExecutionProvider_Nnapi, ONNXRUNTIME);

#endif
