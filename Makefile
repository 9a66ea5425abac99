# The project's verbs; CI runs the same words. `make` alone lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
DOCS := .venv-docs
# One more than the cores of a small machine, as tests wait for files and for one another's builds: all that CI runs took 26
# minutes of two cores, with two workers 31. Each worker loads torch again, about a gigabyte.
TEST_WORKERS ?= 3
# Tests of one file share what is dear to make, so one worker runs them all. Files run in order of their names, not of
# their numbers of tests: that would leave the long tests that are alone in a file, the tutorial's, for the end.
PARALLEL := -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder
CPP_SOURCES := $(shell find CMakeLists.txt runtime_ext -name CMakeLists.txt -o -name '*.cmake' -o -name '*.cc' \
	-o -name '*.h' -o -name '*.inc' -o -name '*.cu' -o -name '*.cuh' 2>/dev/null)

# Models come from Python packages, so no tool needs to ask a model hub.
export HF_HUB_OFFLINE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help analyze arm-library bench bench-cuda bench-even bench-models bench-peers check check-arm check-baseline clean compat cuda \
	demo docs fuzz gpu-calibrate gpu-check hosts next reproducible sanitize setup site soak test test-all web wheels

help: ## list the verbs
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22

setup: $(VENV)/.built ## create .venv and build the library into it (once; minutes)

# Everything pinned and no build isolation: the versions that were tested are the ones that run. Most modules of these
# packages are never imported, so Python compiles them when it first imports them.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile -c constraints.txt scikit-build-core cmake ninja numpy setuptools
	$(BIN)/pip install --quiet --no-compile -c constraints.txt --no-build-isolation --editable '.[dev]'
	touch $@

# Only the library: seconds, because the build tree under build/ is kept.
$(VENV)/.built: $(VENV)/.installed $(CPP_SOURCES) dualbinary/contract/op.toml dualbinary/contract/codegen.py
	$(BIN)/pip install --quiet -c constraints.txt --no-build-isolation --no-deps --editable .
	touch $@

demo: setup ## a real model: export, check, generate, and a table of sizes and speeds
	$(BIN)/python -m examples.demo

hosts: setup ## one export on every host that this machine has, token by token; says what others need
	$(BIN)/python -m tools.hosts

compat: setup ## models of every version on other versions of ONNX Runtime and Python, token by token
	$(BIN)/python -m tools.compat

next: setup ## the newest transformers, onnx, mobius, ONNX Runtime and genai, each and together: what breaks
	$(BIN)/python -m tools.next

# A folder that the exporter wrote.
MODEL ?= out/demo/dualbinary

web: ## the page of examples/web, built and served with MODEL=FOLDER (default: that of the demo); needs Node.js
	cd examples/web && npm ci --no-audit --no-fund
	cd examples/web && npm start -- $(abspath $(MODEL))

test: setup ## the default tests
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

test-all: setup ## all tests, then the runtime's once more for each instruction set of this CPU
	$(BIN)/python -m pytest $(PARALLEL)
	set -e; for isa in $$($(BIN)/python -m runtime_ext info --isas); do \
		echo "== DUALBINARY_ISA=$$isa"; \
		DUALBINARY_ISA=$$isa $(BIN)/python -m pytest -q $(PARALLEL) tests/runtime; \
	done

GENERATED := --docs docs/op_reference.md --golden dualbinary/contract/golden

check: setup ## lint, format, types, generated files, file budget
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	git ls-files '*.c' '*.cc' '*.h' '*.cu' '*.cuh' | xargs --no-run-if-empty $(BIN)/clang-format --dry-run --Werror
	$(BIN)/python -m dualbinary.contract.codegen $(GENERATED) --check
	$(BIN)/python tools/api_reference.py --check
	$(BIN)/python tools/config_fields_page.py --check
	$(BIN)/python tools/check_files.py
	$(BIN)/pyright

# What qemu can be: an Armv8.0 CPU, one with dotprod, one with i8mm.
ARM_CPUS ?= cortex-a53 neoverse-n1 arm-max
# Tests that need nothing but the library, NumPy, onnx and ONNX Runtime.
LIBRARY_TESTS := $(addprefix tests/runtime/test_,kernels.py level_kernels.py hadamard.py layouts.py validation.py library.py \
	op.py blocks.py)
EMULATED_PYTEST := -m pytest -q -p no:cacheprovider $(LIBRARY_TESTS)

arm-library: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --preset aarch64 -DPython3_EXECUTABLE="$(CURDIR)/$(BIN)/python"
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build --preset aarch64 --parallel $(TEST_WORKERS)

check-arm: arm-library ## cross-build for 64-bit Arm, and the library's tests under qemu, CPU by CPU
	set -e; for cpu in $(ARM_CPUS); do \
		echo "== $$cpu"; \
		$(BIN)/python tools/emulate.py $$cpu $(EMULATED_PYTEST); \
	done

check-baseline: setup ## the library's tests under qemu on an x86-64 CPU without AVX
	$(BIN)/python tools/emulate.py nehalem $(EMULATED_PYTEST)

# Of each target.
SECONDS ?= 60

fuzz: setup ## every fuzz target for SECONDS=60; needs Clang for those of the library
	$(BIN)/python -m tools.fuzz --seconds $(SECONDS) --jobs $(TEST_WORKERS) $(FUZZ_OPTIONS)

sanitize: setup ## the library under the sanitizers of addresses, undefined behavior and threads, and the tests that run it
	$(BIN)/python -m tools.sanitize --jobs $(TEST_WORKERS) $(SANITIZE_OPTIONS)

analyze: setup ## clang-tidy, cppcheck and the analyzer of GCC over the C++ sources
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tools.analyze --jobs $(TEST_WORKERS) $(ANALYZE_OPTIONS)

reproducible: setup ## the library built twice in two folders, and their bytes compared
	$(BIN)/python -m tools.reproducible --jobs $(TEST_WORKERS)

# Such as 90, or "80 90"; empty for all. The library goes to build/cuda, or to build/cuda-90 and the like.
CUDA_ARCHITECTURES ?=

cuda: setup ## the kernels for NVIDIA GPUs, compiled and loaded; needs no GPU, and gets nvcc 13 where there is none
	$(BIN)/python -m tools.build_cuda --jobs $(TEST_WORKERS) --architectures $(CUDA_ARCHITECTURES)

gpu-check: setup ## all that needs an NVIDIA GPU: tests, compute-sanitizer, benchmark; one table
	$(BIN)/python -m tools.gpu_check $(GPU_CHECK_OPTIONS)

# Minutes count from the first stage to the last; see tools/gpu_calibrate.py.
CALIBRATE_MODEL ?= models/SmolLM2-135M-Instruct
CALIBRATE_OUT ?= out/gpu_calibration
MINUTES ?= 10

gpu-calibrate: setup ## a calibration that fills MINUTES=10 of a large GPU, by the preset gpu; give TEXT="FILE .."
	$(BIN)/python -m tools.gpu_calibrate $(CALIBRATE_MODEL) $(CALIBRATE_OUT) --text $(TEXT) --minutes $(MINUTES)

# These continue a run that was stopped; after a change of the library or of options, remove the file first.
bench: setup ## speed of the kernels beside MatMulNBits and a plain read of memory
	$(BIN)/python -m benchmarks.kernels.bench --out out/bench/kernels.json $(BENCH_OPTIONS)
	$(BIN)/python -m benchmarks.kernels.report out/bench/kernels.json --plot out/bench/kernels.svg > /dev/null

# 1, 2, 4 and 8 planes around their middle, in groups of 32 and 128, beside MatMulNBits of 2, 4 and 8 bits.
bench-even: setup ## speed of even levels beside MatMulNBits of the same block size
	for size in 32 128; do \
		$(BIN)/python -m benchmarks.kernels.bench --out out/bench/even$$size.json --group-size $$size --levels 4 \
			--even 1 2 4 8 --peers 2 4 8 --shapes 4096x4096 --rows 1 4 8 16 32 128 $(BENCH_OPTIONS) || exit 1; \
	done

bench-cuda: cuda ## speed of the CUDA kernels beside cuBLAS, MatMulNBits and torch's int4; needs a GPU
	$(BIN)/python -m benchmarks.cuda.bench --library build/cuda/libdualbinary_cuda.so --kernels all \
		--out out/bench/cuda.json $(BENCH_OPTIONS)

bench-models: setup ## whole models beside llama.cpp and onnxruntime-genai, as far as these are installed
	$(BIN)/python -m benchmarks.models.bench --out out/bench/models.json $(BENCH_OPTIONS)

bench-peers: $(PEERS)/.installed ## create .venv-peers with llama.cpp and onnxruntime-genai (compiles llama.cpp)

# llama.cpp for this very CPU, as the project's kernels are; a wheel from elsewhere would be slower. Its part for
# pictures and sounds is left out.
$(PEERS)/.installed: benchmarks/models/constraints-peers.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet -c $< scikit-build-core cmake ninja numpy
	CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF" CMAKE_BUILD_PARALLEL_LEVEL=$(TEST_WORKERS) nice \
		$(PEERS)/bin/pip install --quiet -c $< --no-build-isolation \
		--no-binary llama-cpp-python llama-cpp-python
	$(PEERS)/bin/pip install --quiet -c $< onnxruntime-genai onnxruntime
	touch $@

SOAK_SECONDS ?= 3600

soak: setup ## the demo's model under load for SOAK_SECONDS: answers as alone, constant memory, no leak by heaptrack
	test -e out/demo/dualbinary/model.onnx || $(BIN)/python -m examples.demo
	$(BIN)/python -m tools.soak out/demo/dualbinary/model.onnx --seconds $(SOAK_SECONDS) --context 1024
	if command -v heaptrack > /dev/null; then \
		$(BIN)/python -m tools.soak.leaks out/demo/dualbinary/model.onnx; fi

wheels: setup ## wheels for Linux, Windows and macOS and the source distribution, all built and checked here, into dist/
	$(BIN)/python -m tools.wheels

docs: setup ## regenerate docs/op_reference.md, docs/reference and the golden vectors
	$(BIN)/python -m dualbinary.contract.codegen $(GENERATED)
	$(BIN)/python tools/api_reference.py
	$(BIN)/python tools/config_fields_page.py

site: $(DOCS)/.installed ## the documentation as a site in out/site, every link checked (python -m http.server -d out/site)
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet --strict

$(DOCS)/.installed: constraints-docs.txt
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install --quiet -c $< mkdocs-material mdx-truly-sane-lists
	touch $@

clean: ## remove what can be made again, .venv and models too
	rm -rf $(VENV) $(PEERS) $(DOCS) .venv-cuda .venv-gpu .venv-wheels build dist models out .pytest_cache .hypothesis
	find . -type d "(" -name __pycache__ -o -name .ruff_cache -o -name .import_linter_cache ")" -prune -exec rm -rf {} +
