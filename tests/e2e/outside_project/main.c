/* Runs a model of one input X and one output Y, both float32: outside MODEL ROWS COLUMNS OUTPUTS. Reads X [ROWS,
 * COLUMNS] from standard input and writes Y [ROWS, OUTPUTS] to standard output, as bytes. */
#include <dualbinary_onnxruntime.h>
#include <onnxruntime_c_api.h>
#include <stdio.h>
#include <stdlib.h>

static const OrtApi* api;

static void check(OrtStatus* status) {
  if (status == NULL) return;
  fprintf(stderr, "error: %s\n", api->GetErrorMessage(status));
  exit(1);
}

/* What another static library of operators may have; ours must not have it too. */
OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  (void)options;
  (void)base;
  return NULL;
}

int main(int argc, char** argv) {
  OrtEnv* env;
  OrtSessionOptions* options;
  OrtSession* session;
  OrtMemoryInfo* memory;
  OrtValue *x, *y = NULL;
  const char *inputs[] = {"X"}, *outputs[] = {"Y"};
  float* values;
  int64_t shape[2];
  size_t count, outputs_count;

  if (argc != 5) return 2;
  shape[0] = atoll(argv[2]);
  shape[1] = atoll(argv[3]);
  count = (size_t)(shape[0] * shape[1]);
  outputs_count = (size_t)(shape[0] * atoll(argv[4]));
  values = malloc(count * sizeof *values);
  if (values == NULL || fread(values, sizeof *values, count, stdin) != count) return 2;

  api = OrtGetApiBase()->GetApi(17);
  check(api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "outside", &env));
  check(api->CreateSessionOptions(&options));
#ifdef BY_NAME
  check(api->RegisterCustomOpsUsingFunction(options, "RegisterDualBinaryCustomOps"));
#else
  check(RegisterDualBinaryCustomOps(options, OrtGetApiBase()));
#endif
  check(api->CreateSession(env, argv[1], options, &session));
  check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
  check(api->CreateTensorWithDataAsOrtValue(memory, values, count * sizeof *values, shape, 2,
                                            ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &x));
  check(api->Run(session, NULL, inputs, (const OrtValue* const*)&x, 1, outputs, 1, &y));
  check(api->GetTensorMutableData(y, (void**)&values));
  fwrite(values, sizeof *values, outputs_count, stdout);
  fprintf(stderr, "%s\n", dualbinary_version());
  return 0;
}
