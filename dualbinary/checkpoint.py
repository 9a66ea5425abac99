"""The checkpoint: an ordinary Hugging Face directory in which quantized modules store planes and scales.

    config.json                         with the block "quantization_config" that QuantizationConfig describes
    model.safetensors                   or model-00001-of-0000N.safetensors with model.safetensors.index.json
        <module>.planes                 uint8 [P, N, Kp/8], layout 1, in place of <module>.weight
        <module>.scales                 float16 or float32 [C, N, Kp/G]
        everything else                 as in the full-precision model

Reading and writing tensors needs the `safetensors` package, which is imported only there.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dualbinary.contract.layout import check_tensors
from dualbinary.contract.schema import OP, padded_k
from dualbinary.errors import InputError
from dualbinary.files.json_objects import read_json_object

__all__ = [
    "FORMAT_VERSION",
    "METHODS",
    "PER_CHANNEL",
    "QUANT_METHOD",
    "QuantizationConfig",
    "StoredTensor",
    "check_modules",
    "load_module",
    "module_shapes",
    "planes_name",
    "read_quantization_config",
    "scales_name",
    "stored_tensors",
    "write_checkpoint",
]

QUANT_METHOD = "dualbinary"
VERSIONS = (1, 2)  # that are read; a checkpoint is written in the oldest that can say what it holds
FORMAT_VERSION = VERSIONS[-1]
PER_CHANNEL = -1  # a group_size, from version 2 on: each row is one group, of Kp = K rounded up to 32
METHODS = ("fdb", "fit", "qbb")  # who chose the planes; the stored form means the same for all
CONFIG_FILE = "config.json"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SHARD_BYTES = 1 << 30  # what a writer holds in memory at most, unless one tensor alone is larger


@dataclass(frozen=True)
class QuantizationConfig:
    """The block "quantization_config" of config.json. Construction raises InputError where a value is not allowed.

    Attributes:
        method: one of METHODS.
        planes: P.
        group_size: G, a multiple of 32, or PER_CHANNEL.
        has_offset: whether scales have P+1 rows.
        modules_to_not_convert: full names of the Linear modules that keep their weight.
    """

    method: str
    planes: int
    group_size: int
    has_offset: bool
    modules_to_not_convert: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        limits = OP.limits
        multiple = limits["group_multiple"]
        names = self.modules_to_not_convert
        _require(self.method in METHODS, "method", f"one of {', '.join(METHODS)}", self.method)
        _require(
            type(self.planes) is int and limits["min_planes"] <= self.planes <= limits["max_planes"],
            "planes",
            f"an integer from {limits['min_planes']} to {limits['max_planes']}",
            self.planes,
        )
        _require(
            type(self.group_size) is int
            and (self.group_size == PER_CHANNEL or (self.group_size > 0 and self.group_size % multiple == 0)),
            "group_size",
            f"a positive multiple of {multiple}, or {PER_CHANNEL} for a group a row",
            self.group_size,
        )
        _require(type(self.has_offset) is bool, "has_offset", "true or false", self.has_offset)
        _require(
            isinstance(names, tuple) and all(isinstance(name, str) and name for name in names),
            "modules_to_not_convert",
            "a list of module names",
            names,
        )

    @property
    def scale_rows(self) -> int:
        """C: P, or P+1 with an offset."""
        return self.planes + self.has_offset

    @property
    def format_version(self) -> int:
        """The oldest version that can say this."""
        return 2 if self.group_size == PER_CHANNEL else 1

    def group_of(self, k: int) -> int:
        """G of a module of `k` inputs."""
        return padded_k(k, OP.limits["group_multiple"]) if self.group_size == PER_CHANNEL else self.group_size

    def to_dict(self) -> dict[str, Any]:
        """The block as it is written to config.json."""
        block = asdict(self)
        block["modules_to_not_convert"] = list(self.modules_to_not_convert)
        return {"quant_method": QUANT_METHOD, "format_version": self.format_version, **block}

    @classmethod
    def from_dict(cls, block: object) -> "QuantizationConfig":
        """Read a block that came from a file. Raises InputError, naming the key, for whatever is not exactly right."""
        if not isinstance(block, dict):
            raise InputError(f"quantization_config: expected an object, got {_shown(block)}")
        method = block.get("quant_method")
        _require(method == QUANT_METHOD, "quant_method", f'"{QUANT_METHOD}"', method)
        version = block.get("format_version")
        if type(version) is int and version > FORMAT_VERSION:
            raise InputError(
                f"quantization_config.format_version: {version} is newer than {FORMAT_VERSION}, the newest that this "
                "release reads; upgrade dualbinary"
            )
        _require(version in VERSIONS and type(version) is int, "format_version", "1 or 2", version)
        values = {key: value for key, value in block.items() if key not in ("quant_method", "format_version")}
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise InputError(f"quantization_config.{key}: unknown key; expected {', '.join(known)}")
        for key in known:
            if key not in values:
                raise InputError(f"quantization_config.{key}: missing; expected in format_version {version}")
        names = values["modules_to_not_convert"]
        _require(isinstance(names, list), "modules_to_not_convert", "a list of module names", names)
        config = cls(**{**values, "modules_to_not_convert": tuple(names)})
        _require(
            version != 1 or config.format_version == 1,
            "group_size",
            f"a positive multiple of {OP.limits['group_multiple']} in format_version {version}",
            config.group_size,
        )
        return config


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies and what it is; nothing of its data. `dtype` is safetensors' name, such as U8, F16, BF16."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def planes_name(module: str) -> str:
    """The name under which the planes of `module` are stored."""
    return f"{module}.planes"


def scales_name(module: str) -> str:
    """The name under which the scales of `module` are stored."""
    return f"{module}.scales"


def module_shapes(config: QuantizationConfig, n: int, k: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """The shapes [P, N, Kp/8] and [C, N, Kp/G] of a quantized Linear with `k` inputs and `n` outputs."""
    group_size = config.group_of(k)
    kp = padded_k(k, group_size)
    return (config.planes, n, kp // 8), (config.scale_rows, n, kp // group_size)


def read_quantization_config(model_dir: Path) -> QuantizationConfig | None:
    """The block of a checkpoint of ours; None for a full-precision model directory.

    Raises InputError where config.json cannot be read, the block is wrong, or another method quantized the model.
    """
    config = read_json_object(Path(model_dir) / CONFIG_FILE)
    block = config.get("quantization_config")
    if block is None:
        return None
    method = block.get("quant_method") if isinstance(block, dict) else None
    if isinstance(method, str) and method != QUANT_METHOD:
        raise InputError(f"{model_dir}: already quantized with {_shown(method)}; give the full-precision model")
    try:
        return QuantizationConfig.from_dict(block)
    except InputError as error:
        raise InputError(f"{Path(model_dir) / CONFIG_FILE}: {error}") from None


def stored_tensors(model_dir: Path) -> dict[str, StoredTensor]:
    """All tensors of a model directory, plain or ours, by name; only headers are read.

    Raises InputError where a file is missing or damaged or the index and the files disagree.
    """
    from safetensors import SafetensorError, safe_open  # the base package needs NumPy alone

    model_dir = Path(model_dir)
    weight_map = _weight_map(model_dir)
    files = sorted(set(weight_map.values())) if weight_map is not None else [SINGLE_FILE]
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        path = model_dir / file
        if not path.is_file():
            raise InputError(f"{path}: missing; expected {SINGLE_FILE}, or {INDEX_FILE} with the files it names")
        try:
            with safe_open(path, framework="numpy") as reader:
                for name in reader.keys():  # noqa: SIM118  # the reader is not a mapping
                    view = reader.get_slice(name)
                    tensors[name] = StoredTensor(path, view.get_dtype(), tuple(view.get_shape()))
        except SafetensorError as error:
            raise InputError(f"{path}: not a whole safetensors file ({error}); fetch or write it again") from None
    for name, file in (weight_map or {}).items():
        if name not in tensors or tensors[name].file.name != file:
            raise InputError(f"{model_dir / INDEX_FILE}: {name} should be in {file}, but is not")
    return tensors


def check_modules(
    config: QuantizationConfig, tensors: Mapping[str, StoredTensor], linears: Mapping[str, tuple[int, int]]
) -> None:
    """Hold the tensors of a checkpoint against its config and the Linear modules {name: (N, K)} of its model.

    Raises InputError at the first tensor that is missing, has the wrong type or shape, or should not be there.
    """
    quantized = {name: size for name, size in linears.items() if name not in config.modules_to_not_convert}
    for module in linears:
        if module not in quantized and f"{module}.weight" not in tensors:
            raise InputError(f"{module}.weight: missing, although modules_to_not_convert names the module")
    for module, (n, k) in quantized.items():
        if config.group_size > padded_k(k, OP.limits["group_multiple"]):
            raise InputError(f"{module}: group_size {config.group_size} is larger than its row of {k} inputs")
        planes_shape, scales_shape = module_shapes(config, n, k)
        _check_stored(tensors, planes_name(module), ("U8",), planes_shape)
        _check_stored(tensors, scales_name(module), ("F16", "F32"), scales_shape)
        if f"{module}.weight" in tensors:
            raise InputError(f"{module}.weight: not expected beside {planes_name(module)}")
    for name in tensors:
        module, _, kind = name.rpartition(".")
        if kind in ("planes", "scales") and module not in quantized:
            raise InputError(f"{name}: not expected; the model has no quantized Linear called {module}")


def load_module(
    tensors: Mapping[str, StoredTensor], module: str, n: int, k: int, group_size: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.floating]]:
    """Read planes [P, N, Kp/8] and scales [C, N, Kp/G] of one module of a checkpoint.

    Raises InputError if they do not fit the contract or a scale is not finite.
    """
    from safetensors import safe_open  # the base package needs NumPy alone

    arrays = []
    for name in (planes_name(module), scales_name(module)):
        with safe_open(tensors[name].file, framework="numpy") as reader:
            arrays.append(reader.get_tensor(name))
    planes, scales = arrays
    check_tensors(planes, scales, n, k, group_size, module)
    if not np.isfinite(scales).all():
        raise InputError(f"{scales_name(module)}: holds a value that is not finite")
    return planes, scales


def write_checkpoint(
    directory: Path,
    model_config: Mapping[str, Any],
    quantization: QuantizationConfig,
    tensors: Iterable[tuple[str, np.ndarray]],
    *,
    companions: Iterable[Path] = (),
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a checkpoint: all of it appears at `directory` in one step, or nothing does.

    `model_config` is the config.json of the full-precision model. `tensors` may be a generator: at most `shard_bytes`
    of it are held. `companions` are files to copy, such as those of the tokenizer.

    Raises InputError if `directory` exists and is not an empty directory; ValueError if a name comes twice.
    """
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{directory}: exists and is not an empty directory; choose another or remove it")
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = directory.parent / f".{directory.name}.{os.getpid()}.partial"
    staging.mkdir()
    try:
        for companion in companions:
            shutil.copyfile(companion, staging / Path(companion).name)
        _write_shards(staging, tensors, shard_bytes)
        _write_json(staging / CONFIG_FILE, {**model_config, "quantization_config": quantization.to_dict()})
        mode = (staging / CONFIG_FILE).stat().st_mode
        for path in staging.glob("*.safetensors"):
            path.chmod(mode)  # safetensors makes files that their owner alone can read
        for path in (*staging.iterdir(), staging):
            _sync(path)
        if directory.exists():
            directory.rmdir()
        staging.rename(directory)
        _sync(directory.parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


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
        shard[name] = np.ascontiguousarray(tensor)
        size += tensor.nbytes
    yield shard


def _weight_map(model_dir: Path) -> dict[str, str] | None:
    """Tensor name to file name from the index; None where there is no index."""
    path = model_dir / INDEX_FILE
    if (model_dir / SINGLE_FILE).is_file() or not path.exists():  # as transformers reads a directory that has both
        return None
    weight_map = read_json_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{path}: weight_map must be an object of tensor and file names, got {_shown(weight_map)}")
    for file in weight_map.values():
        if not isinstance(file, str) or not file.endswith(".safetensors") or Path(file).name != file:
            raise InputError(f"{path}: {_shown(file)} is not the name of a safetensors file beside the index")
    return weight_map


def _check_stored(
    tensors: Mapping[str, StoredTensor], name: str, dtypes: tuple[str, ...], shape: tuple[int, ...]
) -> None:
    wanted = f"{' or '.join(dtypes)} {list(shape)}"
    stored = tensors.get(name)
    if stored is None:
        raise InputError(f"{name}: missing; expected {wanted}")
    if stored.dtype not in dtypes or stored.shape != shape:
        raise InputError(f"{name}: expected {wanted}, got {stored.dtype} {list(stored.shape)}")


def _require(allowed: bool, key: str, expected: str, value: object) -> None:
    if not allowed:
        raise InputError(f"quantization_config.{key}: expected {expected}, got {_shown(value)}")


def _shown(value: object) -> str:
    """A value from a file, short enough for a message."""
    text = json.dumps(value, default=repr)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _sync(path: Path) -> None:
    """Ask the system to bring a file or directory to disk before the next step."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
