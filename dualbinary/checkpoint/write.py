"""Writing a checkpoint: all of it appears in one step, or nothing does."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from dualbinary.checkpoint.config import QuantizationConfig
from dualbinary.checkpoint.tensors import CONFIG_FILE, INDEX_FILE, SINGLE_FILE
from dualbinary.contract.scale_codes import BFLOAT16
from dualbinary.files.atomic import new_directory

__all__ = ["write_checkpoint"]

NEWER_SCALES = (BFLOAT16, np.dtype(np.uint8))  # types that readers of versions 1 and 2 refuse, as they do input orders
NEWER_VERSION = 3

SHARD_BYTES = 1 << 30  # what a writer holds in memory at most, unless one tensor alone is larger


def write_checkpoint(
    directory: Path,
    model_config: Mapping[str, Any],
    quantization: QuantizationConfig | Callable[[], QuantizationConfig | None],
    tensors: Iterable[tuple[str, np.ndarray]],
    *,
    files: Mapping[str, str | Path] = MappingProxyType({}),
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a checkpoint: all of it appears at `directory` in one step, or nothing does.

    `model_config` is the config.json of the full-precision model. `tensors` may be a generator: at most `shard_bytes`
    of it are held. Where only they tell the formats, `quantization` is called when all of them have been written;
    without one, the directory is a plain model.
    Scales may be of type bfloat16 as their bits (BFLOAT16 of the contract). `files` are small files of the model, such
    as those of the tokenizer: a name to a text, or to a file to copy.

    Raises InputError if `directory` exists and is not an empty directory; ValueError if a name comes twice.
    """
    oldest = 1

    def seen() -> Iterator[tuple[str, np.ndarray]]:
        nonlocal oldest
        for name, tensor in tensors:
            newer_scales = tensor.dtype in NEWER_SCALES or tensor.dtype.name == "bfloat16"
            if name.endswith(".input_order") or (name.endswith(".scales") and newer_scales):
                oldest = NEWER_VERSION
            yield name, tensor

    with new_directory(Path(directory)) as staging:
        for name, file in files.items():
            (staging / name).parent.mkdir(exist_ok=True)  # further chat templates are in a folder of their own
            if isinstance(file, Path):
                shutil.copyfile(file, staging / name)
            else:
                (staging / name).write_text(file, encoding="utf-8")
        _write_shards(staging, seen(), shard_bytes)
        config = quantization if isinstance(quantization, QuantizationConfig) else quantization()
        values = dict(model_config)
        if config is not None:
            version = max(config.format_version, oldest)
            values["quantization_config"] = {**config.to_dict(), "format_version": version}
        _write_json(staging / CONFIG_FILE, values)
        mode = (staging / CONFIG_FILE).stat().st_mode
        for path in staging.glob("*.safetensors"):
            path.chmod(mode)  # safetensors makes files that their owner alone can read


def _write_shards(directory: Path, tensors: Iterable[tuple[str, np.ndarray]], shard_bytes: int) -> None:
    from safetensors.numpy import save_file  # the base package needs NumPy alone

    shards: list[list[str]] = []
    total = 0
    for shard in _shards(tensors, shard_bytes):
        save_file(
            shard, directory / f"{len(shards)}.safetensors", metadata={"format": "pt"}
        )  # what transformers expects
        shards.append(list(shard))
        total += sum(tensor.nbytes for tensor in shard.values())
    weight_map: dict[str, str] = {}
    for index, names in enumerate(shards):
        file = SINGLE_FILE if len(shards) == 1 else f"model-{index + 1:05d}-of-{len(shards):05d}.safetensors"
        (directory / f"{index}.safetensors").rename(directory / file)
        for name in names:
            if name in weight_map:
                raise ValueError(f"{name} comes twice")
            weight_map[name] = file
    if len(shards) > 1:
        _write_json(directory / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _shards(tensors: Iterable[tuple[str, np.ndarray]], shard_bytes: int) -> Iterator[dict[str, np.ndarray]]:
    shard: dict[str, np.ndarray] = {}
    size = 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > shard_bytes:
            yield shard
            shard, size = {}, 0
        if name in shard:
            raise ValueError(f"{name} comes twice")
        shard[name] = _typed(name, np.ascontiguousarray(tensor))
        size += tensor.nbytes
    yield shard


def _typed(name: str, tensor: np.ndarray) -> np.ndarray:
    """The tensor with the type that the file says, where NumPy alone has none."""
    if not name.endswith(".scales") or tensor.dtype != BFLOAT16:
        return tensor
    import ml_dtypes  # the base package needs NumPy alone

    return tensor.view(ml_dtypes.bfloat16)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
