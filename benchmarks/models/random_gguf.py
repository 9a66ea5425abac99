"""Write a GGUF file of a Llama with random weights, a tensor at a time.

    python -m benchmarks.models.random_gguf TQ2_0|Q2_0|Q4_0|Q4_K|Q6_K OUT.gguf [--layers 22]

The shape is TinyLlama's, 1.1 billion parameters. Linear layers have the named type, TQ2_0 and Q2_0 with the levels -1,
0 and 1 alone; the vocabulary tables are Q4_K (embedding) and Q6_K (head), as llama.cpp's quantizer stores them beside
ternary layers. All bytes are drawn, so no quantizer is needed. The file has no tokenizer: benchmarks feed token ids.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from benchmarks.common.synthetic_llama import TINY_LLAMA, LlamaShape
from benchmarks.models.gguf_write import add_settings, gguf_name
from dualbinary import InputError
from dualbinary.cli.console import run
from importer.readers.gguf.types import TYPES

__all__ = ["KINDS", "write_random"]

_DEVIATION = 0.02  # usual standard deviation of weights
_WEIGHTS = 1 << 20  # that are drawn at a time
Bytes = npt.NDArray[np.uint8]
Random = np.random.Generator


def _half(values: npt.NDArray[np.floating]) -> Bytes:
    """Float16 values as bytes: [B] to [B, 2]."""
    return values.astype("<f2").view(np.uint8).reshape(-1, 2)


def _ternary(random: Random, blocks: int, weights: int) -> tuple[Bytes, Bytes]:
    """Draw fields of two bits with 0, 1 or 2 in them, four a byte, and a step for each block."""
    fields = random.integers(0, 3, (blocks, weights // 4, 4), dtype=np.uint8)
    packed = (fields << np.array([0, 2, 4, 6], np.uint8)).sum(axis=2, dtype=np.uint8)
    return packed, _half(_DEVIATION * np.sqrt(1.5) * random.uniform(0.8, 1.2, blocks))


def _tq2_0(random: Random, blocks: int) -> Bytes:
    fields, step = _ternary(random, blocks, 256)
    return np.concatenate([fields, step], axis=1)


def _q2_0(random: Random, blocks: int) -> Bytes:
    fields, step = _ternary(random, blocks, 64)
    return np.concatenate([step, fields], axis=1)


def _q4_0(random: Random, blocks: int) -> Bytes:
    """Draw any four bits, and steps."""
    deviation = np.sqrt((16**2 - 1) / 12)
    step = _half(_DEVIATION / deviation * random.uniform(0.8, 1.2, blocks))
    return np.concatenate([step, random.integers(0, 256, (blocks, 16), dtype=np.uint8)], axis=1)


def _q4_k(random: Random, blocks: int) -> Bytes:
    """Draw any four bits; scales and minimums of six bits that keep levels around zero."""
    scale = random.integers(24, 40, (blocks, 4), dtype=np.uint8)
    # Scales 0 to 3, minimums 0 to 3, and 4 to 7 of both in halves, whose upper two bits are on top of the others.
    low = (scale & 15 | (scale & 15) << 4).astype(np.uint8)
    front = (scale | (scale >> 4) << 6).astype(np.uint8)
    deviation = np.sqrt((16**2 - 1) / 12)
    d = np.full(blocks, _DEVIATION / deviation / 32)
    q = random.integers(0, 256, (blocks, 128), dtype=np.uint8)
    return np.concatenate([_half(d), _half(7.5 * d), front, front, low, q], axis=1)


def _q6_k(random: Random, blocks: int) -> Bytes:
    """Draw any six bits, and scales of eight."""
    scales = random.integers(64, 128, (blocks, 16), dtype=np.uint8)
    deviation = np.sqrt((64**2 - 1) / 12)
    q = random.integers(0, 256, (blocks, 192), dtype=np.uint8)
    return np.concatenate([q, scales, _half(np.full(blocks, _DEVIATION / deviation / 96))], axis=1)


@dataclass(frozen=True)
class Kind:
    """A type of GGUF: its number, and how so many of its blocks are drawn: uint8 [B, size]."""

    number: int
    draw: Callable[[Random, int], Bytes]

    @property
    def weights(self) -> int:
        """Weights in a block."""
        return TYPES[self.number][0].weights

    @property
    def size(self) -> int:
        """Bytes of a block."""
        return TYPES[self.number][0].size


KINDS = {
    "TQ2_0": Kind(35, _tq2_0),
    "Q2_0": Kind(42, _q2_0),
    "Q4_0": Kind(2, _q4_0),
    "Q4_K": Kind(12, _q4_k),
    "Q6_K": Kind(14, _q6_k),
}
"""Types of linear layers."""

_EMBEDDING, _HEAD = KINDS["Q4_K"], KINDS["Q6_K"]


def write_random(path: Path, kind: str, shape: LlamaShape = TINY_LLAMA) -> Path:
    """Write the file with one tensor in memory at a time; the same arguments give the same bytes.

    Raises InputError where rows of `shape` are no multiples of 256.
    """
    writer = gguf.GGUFWriter(path, "llama")
    add_settings(writer, shape.config())
    for tensor in _tensors(shape, KINDS[kind]):
        _declare(writer, *tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    random = np.random.default_rng(0)
    for _, size, form in _tensors(shape, KINDS[kind]):
        writer.write_tensor_data(_content(random, size, form))
    writer.close()
    return path


def _tensors(shape: LlamaShape, linear: Kind) -> Iterator[tuple[str, tuple[int, int], Kind | None]]:
    """Yield names as in transformers, [N, K] and types; None is a norm of K ones."""
    table, norm = (shape.vocabulary, shape.hidden), (1, shape.hidden)
    yield "model.embed_tokens.weight", table, _EMBEDDING
    yield "model.norm.weight", norm, None
    if not shape.tied:
        yield "lm_head.weight", table, _HEAD
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}"
        for name, size in shape.linears().items():
            yield f"{prefix}.{name}.weight", size, linear
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{prefix}.{name}.weight", norm, None


def _declare(writer: gguf.GGUFWriter, name: str, size: tuple[int, int], kind: Kind | None) -> None:
    N, K = size
    if kind is None:
        writer.add_tensor_info(gguf_name(name), (K,), np.dtype(np.float32), 4 * K)
        return
    if K % kind.weights:
        raise InputError(f"{name}: rows of {K} weights, expected a multiple of {kind.weights}")
    number: Any = kind.number  # the library knows no type 42, and writes the number as it is
    writer.add_tensor_info(gguf_name(name), (N, K), np.dtype(np.float32), N * K // kind.weights * kind.size, number)


def _content(random: Random, size: tuple[int, int], kind: Kind | None) -> np.ndarray:
    N, K = size
    if kind is None:
        return np.ones(K, np.float32)
    blocks = N * K // kind.weights
    step = _WEIGHTS // kind.weights
    parts = [kind.draw(random, min(step, blocks - begin)) for begin in range(0, blocks, step)]
    return np.concatenate(parts)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.models.random_gguf", description="Write a GGUF file of a random Llama."
    )
    parser.add_argument("kind", choices=KINDS, metavar="|".join(KINDS), help="type of the linear layers")
    parser.add_argument("out", type=Path, metavar="OUT.gguf")
    parser.add_argument("--layers", type=int, default=TINY_LLAMA.layers, metavar="L", help="default 22")
    return run(parser, _command, argv)


def _command(args: argparse.Namespace) -> None:
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_random(args.out, args.kind, replace(TINY_LLAMA, layers=args.layers))


if __name__ == "__main__":
    sys.exit(main())
