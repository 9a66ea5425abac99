"""Stand-ins for the driver and the torch of a GPU: for the tests of the CUDA benchmark."""

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]

# The functions of libcuda that benchmarks/cuda/device.py calls, for memory that is memory. Byte 0 of each allocation is
# at a multiple of 256, as on a device.
_DRIVER = """
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
int cuInit(unsigned flags) { return flags ? 1 : 0; }
int cuDeviceGet(int *device, int index) { *device = 7; return index ? 101 : 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = malloc(1); return device == 7 ? 0 : 101; }
int cuCtxSetCurrent(void *context) { return context ? 0 : 201; }
int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
  *address = (uint64_t)(uintptr_t)aligned_alloc(256, (bytes + 255) / 256 * 256);
  return bytes ? 0 : 1;
}
int cuMemFree_v2(uint64_t address) { free((void *)(uintptr_t)address); return 0; }
int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t bytes) {
  memcpy((void *)(uintptr_t)to, from, bytes); return 0;
}
int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t bytes) {
  memcpy(to, (const void *)(uintptr_t)from, bytes); return 0;
}
int cuGetErrorString(int code, const char **words) { *words = "stand-in refuses"; return 0; }
"""


def make_driver(folder: Path) -> None:
    """Compile libcuda.so.1 into `folder`."""
    source = folder / "driver.c"
    source.write_text(_DRIVER)
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(folder / "libcuda.so.1")], check=True)


class _Event:
    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: "_Event") -> float:
        return 1.0  # milliseconds


class _Graph:
    """Remembers nothing: a replay is counted only."""

    replays = 0

    def replay(self) -> None:
        _Graph.replays += 1

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


class TorchOfGpu:
    """The module torch as on a machine with a GPU whose memory is the CPU's. Every event lies a millisecond ahead."""

    def __init__(self) -> None:
        stream = SimpleNamespace(cuda_stream=0)
        properties = SimpleNamespace(L2_cache_size=1 << 12, total_memory=1 << 24)
        self.cuda = SimpleNamespace(
            is_available=lambda: True,
            get_device_properties=lambda index: properties,
            Stream=lambda: stream,
            set_stream=lambda given: None,
            current_stream=lambda: stream,
            synchronize=lambda: None,
            empty_cache=lambda: None,
            Event=_Event,
            CUDAGraph=_Graph,
            graph=lambda graph: graph,
        )

    def from_numpy(self, array: Any) -> Any:
        return SimpleNamespace(cuda=lambda: torch.from_numpy(array.copy()))

    def __getattr__(self, name: str) -> Any:
        found = getattr(torch, name)
        if name not in ("ones", "empty", "randn", "randint"):
            return found

        def make(*arguments: Any, device: str, **options: Any) -> Any:
            assert device == "cuda"
            return found(*arguments, **options)

        return make


__all__ = ["TorchOfGpu", "make_driver"]
