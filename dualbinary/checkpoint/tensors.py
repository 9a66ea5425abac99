"""The tensors of a checkpoint: their names, their headers, and one module read at a time."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dualbinary.checkpoint.config import QUANT_METHOD, QuantizationConfig, shown, shown_name
from dualbinary.checkpoint.foreign_code import refuse_foreign_code
from dualbinary.contract.layout import check_tensors
from dualbinary.contract.rotation import Rotation
from dualbinary.contract.scale_codes import BFLOAT16, scale_values
from dualbinary.contract.schema import OP, padded_k
from dualbinary.contract.weight import PlaneFormat, PlaneWeight
from dualbinary.errors import InputError
from dualbinary.files.json_objects import read_json_object
from dualbinary.files.model_files import CONFIG_FILE

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

SCALE_TYPES = {
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "BF16": BFLOAT16,
    "U8": np.dtype(np.uint8),
}
"""Types of stored scales, by safetensors' names."""


# Where other tools say how they quantized, and who they are where the block does not name its method.
_BLOCKS = {"quantization_config": None, "compression_config": "compressed-tensors", "quantization": "mlx"}


_MAX_NAME = 200  # characters of a file's name; those of published models have some 40

MODULE_PARTS = ("planes", "scales", "input_order", "rotation_signs")
"""The last names of the tensors that stand for the weight of a module."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor without its data: file, name in it, type and shape.

    `dtype` is safetensors' name, such as U8, F16, BF16.
    """

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]


def is_computed(name: str, shape: Sequence[int]) -> bool:
    """Whether a tensor is a buffer that its model computes anyway, and that versions of some libraries save.

    These are frequencies of rotations, positions, and masks of attention: those are called like a bias, which is [N].
    """
    mask = name.endswith((".attn.bias", ".attention.bias")) and len(shape) > 1
    return mask or name.endswith((".inv_freq", ".masked_bias", "position_ids"))


def planes_name(module: str) -> str:
    """The name under which the planes of `module` are stored."""
    return f"{module}.planes"


def scales_name(module: str) -> str:
    """The name under which the scales of `module` are stored."""
    return f"{module}.scales"


def order_name(module: str) -> str:
    """The name under which the order of the inputs of `module` is stored, where it is not that of its X."""
    return f"{module}.input_order"


def rotation_signs_name(module: str) -> str:
    """The name under which the signs of the rotation of the inputs of `module` are stored, where there is one."""
    return f"{module}.rotation_signs"


def read_quantization_config(model_dir: Path) -> QuantizationConfig | None:
    """The block of a checkpoint of ours; None for a full-precision model directory.

    Raises InputError where `model_dir` is no directory, config.json cannot be read or names code of a hub, the block is
    wrong or gives a key twice, or another method quantized the model.
    """
    if not Path(model_dir).is_dir():
        raise InputError(f"{model_dir}: not a directory; expected a Hugging Face model directory with config.json")
    path = Path(model_dir) / CONFIG_FILE
    config = read_json_object(path)
    refuse_foreign_code(path, config)
    block = config.get("quantization_config")
    if block is None:
        return None
    if (method := quantized_by(model_dir)) is not None:
        raise InputError(f"{model_dir}: already quantized with {method}; give the full-precision model")
    try:
        _refuse_key_twice(path)
        return QuantizationConfig.from_dict(block)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def quantized_by(model_dir: Path) -> str | None:
    """The method by which another tool quantized a model directory, as its config.json says it, quoted; else None.

    Older files have the block under another name, or beside config.json; hqq's own say it by their tensors alone.
    Raises InputError where config.json cannot be read.
    """
    config = read_json_object(Path(model_dir) / CONFIG_FILE)
    for key, implied in _BLOCKS.items():
        block = config.get(key)
        if not isinstance(block, dict):
            continue
        method = block.get("quant_method", implied)
        if method is not None:
            return shown(method) if isinstance(method, str) and method != QUANT_METHOD else None
    if "quantization_config" in config:
        return None
    beside = (Path(model_dir) / "quantize_config.json").is_file()
    return shown("gptq") if beside else shown("hqq") if _of_hqq(Path(model_dir) / SINGLE_FILE) else None


def stored_tensors(model_dir: Path) -> dict[str, StoredTensor]:
    """All tensors of a model directory, plain or ours, by name; only headers are read.

    A tensor that two files hold alike is that of the file that the index names.
    Raises InputError where a file is missing or damaged, the index and the files disagree, or two files hold different
    tensors of one name.
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
                    found = StoredTensor(path, name, view.get_dtype(), tuple(view.get_shape()))
                    if name in tensors:
                        _refuse_another(name, tensors[name], found)
                    if name not in tensors or (weight_map or {}).get(name) == file:
                        tensors[name] = found
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: not a whole safetensors file ({error}); fetch or write it again") from None
    for name, file in (weight_map or {}).items():
        if name not in tensors or tensors[name].file.name != file:
            raise InputError(f"{model_dir / INDEX_FILE}: {name} should be in {file}, but is not")
    return tensors


def check_modules(
    config: QuantizationConfig,
    tensors: Mapping[str, StoredTensor],
    linears: Mapping[str, tuple[int, int]],
    tables: Mapping[str, tuple[int, int]] | None = None,
) -> None:
    """Hold the tensors of a checkpoint against its config and the Linear modules {name: (N, K)} of its model.

    `tables` are the vocabulary tables {name: (V, H)} in the same way, a tied one by the name of the embedding; those
    that an override names are quantized. Raises InputError at the first tensor that is missing, has the wrong type or
    shape, or should not be there.
    """
    tables = tables or {}
    for module in config.overrides:
        if module not in linears and module not in tables:
            raise InputError(
                f"quantization_config.overrides.{shown_name(module)}: the model has no Linear module of that name"
                + (f", and its vocabulary tables are {', '.join(tables)}" if tables else "")
            )
    quantized = {name: size for name, size in linears.items() if name not in config.modules_to_not_convert}
    quantized |= {name: size for name, size in tables.items() if name in config.overrides}
    for module in linears:
        if module not in quantized and f"{module}.weight" not in tensors:
            raise InputError(f"{module}.weight: missing, although modules_to_not_convert names the module")
    for module, (n, k) in quantized.items():
        form = config.format_of(module)
        if form.group_size > padded_k(k, OP.limits["group_multiple"]):
            raise InputError(f"{module}: group_size {form.group_size} is larger than its row of {k} inputs")
        scales = {name: replace(form, scale_dtype=dtype).shapes(n, k)[1] for name, dtype in SCALE_TYPES.items()}
        _check_stored(tensors, planes_name(module), {"U8": form.shapes(n, k)[0]})
        _check_stored(tensors, scales_name(module), scales)
        if order_name(module) in tensors:
            if module in tables:
                raise InputError(f"{order_name(module)}: not expected of a vocabulary table")
            _check_stored(tensors, order_name(module), {"I32": [k]})
        _check_rotation(config, tensors, module, k)
        if f"{module}.weight" in tensors:
            raise InputError(f"{module}.weight: not expected beside {planes_name(module)}")
    for name in tensors:
        module, _, kind = name.rpartition(".")
        if kind in MODULE_PARTS and module not in quantized:
            if module in tables:
                raise InputError(f"{name}: not expected; quantization_config.overrides does not name {module}")
            raise InputError(f"{name}: not expected; the model has no quantized Linear called {module}")


def load_module(
    tensors: Mapping[str, StoredTensor], module: str, n: int, k: int, plane_format: PlaneFormat
) -> PlaneWeight:
    """The weight [n, k] of one module of a checkpoint; `plane_format` is what its config says of the module.

    Scales of type bfloat16 come as their bits (BFLOAT16 of the contract).
    Raises InputError if its tensors do not fit the contract or the format, or a scale is not finite.
    """
    planes, scales = (_array(tensors[name]) for name in (planes_name(module), scales_name(module)))
    form = plane_format.for_inputs(k)
    check_tensors(planes, scales, n, k, form.group_size, module, form.node_levels)
    form = replace(form, scale_dtype=scales.dtype)
    expected = form.shapes(n, k)
    if [list(planes.shape), list(scales.shape)] != list(expected):
        raise InputError(
            f"{module}: has planes {list(planes.shape)} and scales {list(scales.shape)}, expected {expected[0]} and "
            f"{expected[1]} from config.json"
        )
    if not np.isfinite(scale_values(scales)).all():
        raise InputError(f"{scales_name(module)}: holds a value that is not finite")
    return PlaneWeight(planes, scales, k, form)


def load_order(tensors: Mapping[str, StoredTensor], module: str) -> np.ndarray | None:
    """The order of the inputs of `module`, int32 [K]: column k of its planes multiplies X[.., order[k]].

    None where they are in the order of X. Raises InputError unless each input is there once.
    """
    name = order_name(module)
    if name not in tensors:
        return None
    order = _array(tensors[name])
    if not np.array_equal(np.sort(order), np.arange(len(order))):
        raise InputError(f"{name}: expected each of 0 to {len(order) - 1} once")
    return order


def load_rotation(config: QuantizationConfig, tensors: Mapping[str, StoredTensor], module: str) -> Rotation | None:
    """The rotation of the inputs of `module`, whose planes multiply rotated ones; None where they multiply X.

    Where the module has an order of inputs, too, it is that of rotated ones. Raises InputError where a sign is not 1
    or -1.
    """
    block_size = config.block_size_of(module)
    if block_size is None:
        return None
    name = rotation_signs_name(module)
    rotation = Rotation(block_size, _array(tensors[name]))
    rotation.check(len(rotation.signs), name)
    return rotation


def _of_hqq(path: Path) -> bool:
    """Whether a file is of hqq's save_to_safetensors, whose config.json says nothing: by the name of its numbers."""
    from safetensors import SafetensorError, safe_open  # the base package needs NumPy alone

    try:
        with safe_open(path, framework="numpy") as reader:
            return any(name.endswith(".W_q") for name in reader.keys())  # noqa: SIM118  # the reader is not a mapping
    except (OSError, SafetensorError):  # whoever reads the file says what is wrong
        return False


class _Object(dict[str, Any]):
    """A JSON object that knows a key that it was given twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        seen: set[str] = set()
        self.twice = (
            next((key for key, _ in pairs if key in seen or seen.add(key)), None) if len(self) < len(pairs) else None
        )


def _refuse_key_twice(path: Path) -> None:
    """Refuse a block in which a key has two values: readers of JSON take the last of them and say nothing."""
    config = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_Object)
    key = "quantization_config"
    if config.twice == key:
        raise InputError(f"{key}: given twice; expected one")
    objects = {key: config[key]}
    overrides = config[key].get("overrides") if isinstance(config[key], dict) else None
    if isinstance(overrides, dict):
        objects |= {f"{key}.overrides": overrides}
        objects |= {f"{key}.overrides.{shown_name(module)}": override for module, override in overrides.items()}
    for where, value in [*objects.items(), *((f"{where}.rotation", _rotation(it)) for where, it in objects.items())]:
        if isinstance(value, _Object) and value.twice is not None:
            raise InputError(f"{where}.{shown_name(value.twice)}: given twice; expected one value")


def _rotation(block: object) -> object:
    return block.get("rotation") if isinstance(block, dict) else None


def _weight_map(model_dir: Path) -> dict[str, str] | None:
    """Tensor name to file name from the index; None where there is no index."""
    path = model_dir / INDEX_FILE
    if (model_dir / SINGLE_FILE).is_file() or not path.exists():  # as transformers reads a directory that has both
        return None
    weight_map = read_json_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{path}: weight_map must be an object of tensor and file names, got {shown(weight_map)}")
    for file in weight_map.values():
        plain = isinstance(file, str) and len(file) <= _MAX_NAME and file.isprintable() and not set(file) & set("/\\:")
        if not plain or not file.endswith(".safetensors"):
            raise InputError(f"{path}: {shown(file)} is not the name of a safetensors file beside the index")
    return weight_map


def _refuse_another(name: str, first: StoredTensor, second: StoredTensor) -> None:
    """Refuse two tensors of one name that differ: the index means one of them, and transformers takes the last."""
    if _bytes_of(name, first.file) != _bytes_of(name, second.file) or first.shape != second.shape:
        raise InputError(
            f"{first.file.parent}: {first.file.name} and {second.file.name} hold different tensors called {name}; "
            "remove one of them, or fetch the files again"
        )


def _bytes_of(name: str, path: Path) -> bytes:
    """Type and data of a tensor, whatever the type: NumPy lacks bfloat16."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(length))[name]
        begin, end = entry["data_offsets"]
        file.seek(8 + length + begin)
        return entry["dtype"].encode() + file.read(end - begin)


def _array(stored: StoredTensor) -> np.ndarray:
    """A tensor of a module; one of type bfloat16, which safetensors refuses without ml_dtypes, as its bits."""
    if stored.dtype == "BF16":
        bits = np.frombuffer(_bytes_of(stored.name, stored.file), "<u2", offset=len(stored.dtype))
        return bits.astype(BFLOAT16).reshape(stored.shape)
    from safetensors import safe_open  # the base package needs NumPy alone

    with safe_open(stored.file, framework="numpy") as reader:
        return reader.get_tensor(stored.name)


def _check_rotation(config: QuantizationConfig, tensors: Mapping[str, StoredTensor], module: str, k: int) -> None:
    """Hold the rotation of a module, or that it has none, against its inputs and tensors."""
    block_size, name = config.block_size_of(module), rotation_signs_name(module)
    if block_size is None:
        if name in tensors:
            raise InputError(f"{name}: not expected; quantization_config gives {module} no rotation")
        return
    if k % block_size:
        raise InputError(
            f"{module}: rotation.block_size of quantization_config: expected a power of two that divides its {k} "
            f"inputs, got {block_size}"
        )
    _check_stored(tensors, name, {"I8": [k]})


def _check_stored(tensors: Mapping[str, StoredTensor], name: str, allowed: Mapping[str, list[int]]) -> None:
    """Hold a tensor against the shapes that it has in each type that it may have."""
    by_shape: dict[str, list[str]] = {}
    for dtype, shape in allowed.items():
        by_shape.setdefault(str(shape), []).append(dtype)
    wanted = ", or ".join(f"{' or '.join(dtypes)} {shape}" for shape, dtypes in by_shape.items())
    stored = tensors.get(name)
    if stored is None:
        raise InputError(f"{name}: missing; expected {wanted}")
    if allowed.get(stored.dtype) != list(stored.shape):
        raise InputError(f"{name}: expected {wanted}, got {stored.dtype} {list(stored.shape)}")
