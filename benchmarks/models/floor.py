"""The floor that memory sets to the time of a token: a plain read of the weights that it needs.

A token needs all weights but the rows of the embedding that it does not look up. The read is that of
benchmarks/common/memory_read.py, on as many threads, in the same minute. A speed of 1.00 of the floor is as fast as the
weights come; activations, keys and values are not counted. A model whose weights stay in the cache can be below it.
"""

import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from benchmarks.common.memory_read import AHEAD, MemoryRead
from importer.readers.gguf.container import open_container

__all__ = ["Floor", "measured_floor", "token_bytes"]

_LOOKUPS = ("Gather", "GatherBlockQuantized")  # read the rows they are asked for, not their table
_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"  # of GGUF; without the latter the former is the head too
_READ_BYTES = 256_000_000
_READS = 5


@dataclass(frozen=True)
class Floor:
    """Bytes of weights that a token reads, and bytes per second of a plain read."""

    weight_bytes: int
    read_bytes_per_second: float

    @property
    def seconds(self) -> float:
        """Of a token, at least."""
        return self.weight_bytes / self.read_bytes_per_second

    def times(self, token_seconds: float) -> float:
        """How many times the floor a token takes."""
        return token_seconds / self.seconds

    def record(self, token_seconds: float) -> dict[str, Any]:
        """Return it for JSON, with the time of a token by it."""
        return {**asdict(self), "floor_seconds": self.seconds, "of_floor": self.times(token_seconds)}

    def __str__(self) -> str:
        """Say it in a line."""
        read = f"{self.weight_bytes / 1e6:.1f} MB of weights at {self.read_bytes_per_second / 1e9:.1f} GB/s"
        return f"{read}, {1e6 * self.seconds:.0f} us"


def measured_floor(path: Path, threads: int) -> Floor:
    """Measure the floor of a model file on so many threads, in less than a second."""
    return Floor(token_bytes(path), _read_speed(threads))


def token_bytes(path: Path) -> int:
    """Sum the bytes of weights that one token reads whole, of a GGUF or an ONNX file."""
    if path.suffix == ".gguf":
        sizes = {name: len(tensor.data) for name, tensor in open_container(path).tensors.items()}
        return sum(size for name, size in sizes.items() if name != _EMBEDDING or _HEAD not in sizes)
    graph = onnx.load(path, load_external_data=False).graph
    read = {name for node in graph.node if node.op_type not in _LOOKUPS for name in node.input}
    sizes = {tensor.name: _stored_bytes(tensor) for tensor in graph.initializer}
    return sum(size for name, size in sizes.items() if name in read)


def _stored_bytes(tensor: onnx.TensorProto) -> int:
    for entry in tensor.external_data:
        if entry.key == "length":
            return int(entry.value)
    return tensor.ByteSize()


def _read_speed(threads: int) -> float:
    """Measure the bytes per second of a plain read, at its best prefetch distance."""
    memory = MemoryRead(_READ_BYTES)
    best = 0.0
    for ahead in AHEAD:
        reader = memory.reader(threads, ahead)
        times = []
        for _ in range(_READS):
            begin = time.perf_counter()
            reader()
            times.append(time.perf_counter() - begin)
        best = max(best, memory.nbytes / statistics.median(times))
    return best
