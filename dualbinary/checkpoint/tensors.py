"""The tensors of a checkpoint: their names, their headers, and one module read at a time."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dualbinary.checkpoint.config import QUANT_METHOD, QuantizationConfig, shown
from dualbinary.contract.layout import check_tensors
from dualbinary.contract.schema import OP, padded_k
from dualbinary.contract.weight import PlaneFormat, PlaneWeight
from dualbinary.errors import InputError
from dualbinary.files.json_objects import read_json_object
from dualbinary.files.model_files import CONFIG_FILE

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


@dataclass(frozen=True)
class StoredTensor:
    """File, type and shape of a tensor, without its data. `dtype` is safetensors' name, such as U8, F16, BF16."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def planes_name(module: str) -> str:
    """The name under which the planes of `module` are stored."""
    return f"{module}.planes"


def scales_name(module: str) -> str:
    """The name under which the scales of `module` are stored."""
    return f"{module}.scales"


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
        raise InputError(f"{model_dir}: already quantized with {shown(method)}; give the full-precision model")
    try:
        return QuantizationConfig.from_dict(block)
    except InputError as error:
        raise InputError(f"{Path(model_dir) / CONFIG_FILE}: {error}") from None


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
                    found = StoredTensor(path, view.get_dtype(), tuple(view.get_shape()))
                    if name in tensors:
                        _refuse_another(name, tensors[name], found)
                    if name not in tensors or (weight_map or {}).get(name) == file:
                        tensors[name] = found
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
        planes_shape, scales_shape = map(tuple, config.plane_format.shapes(n, k))
        _check_stored(tensors, planes_name(module), ("U8",), planes_shape)
        _check_stored(tensors, scales_name(module), ("F16", "F32"), scales_shape)
        if f"{module}.weight" in tensors:
            raise InputError(f"{module}.weight: not expected beside {planes_name(module)}")
    for name in tensors:
        module, _, kind = name.rpartition(".")
        if kind in ("planes", "scales") and module not in quantized:
            raise InputError(f"{name}: not expected; the model has no quantized Linear called {module}")


def load_module(
    tensors: Mapping[str, StoredTensor], module: str, n: int, k: int, plane_format: PlaneFormat
) -> PlaneWeight:
    """The weight [n, k] of one module of a checkpoint; `plane_format` is that of the checkpoint.

    Raises InputError if its tensors do not fit the contract or the format, or a scale is not finite.
    """
    from safetensors import safe_open  # the base package needs NumPy alone

    arrays = []
    for name in (planes_name(module), scales_name(module)):
        with safe_open(tensors[name].file, framework="numpy") as reader:
            arrays.append(reader.get_tensor(name))
    planes, scales = arrays
    form = plane_format.for_inputs(k)
    check_tensors(planes, scales, n, k, form.group_size, module)
    if not np.isfinite(scales).all():
        raise InputError(f"{scales_name(module)}: holds a value that is not finite")
    if len(planes) != form.planes or len(scales) != form.scale_rows:
        raise InputError(
            f"{module}: has {len(planes)} planes and {len(scales)} rows of scales, expected {form.planes} and "
            f"{form.scale_rows} from config.json"
        )
    return PlaneWeight(planes, scales, k, replace(form, scale_dtype=scales.dtype))


def _weight_map(model_dir: Path) -> dict[str, str] | None:
    """Tensor name to file name from the index; None where there is no index."""
    path = model_dir / INDEX_FILE
    if (model_dir / SINGLE_FILE).is_file() or not path.exists():  # as transformers reads a directory that has both
        return None
    weight_map = read_json_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{path}: weight_map must be an object of tensor and file names, got {shown(weight_map)}")
    for file in weight_map.values():
        if not isinstance(file, str) or not file.endswith(".safetensors") or Path(file).name != file:
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


def _check_stored(
    tensors: Mapping[str, StoredTensor], name: str, dtypes: tuple[str, ...], shape: tuple[int, ...]
) -> None:
    wanted = f"{' or '.join(dtypes)} {list(shape)}"
    stored = tensors.get(name)
    if stored is None:
        raise InputError(f"{name}: missing; expected {wanted}")
    if stored.dtype not in dtypes or stored.shape != shape:
        raise InputError(f"{name}: expected {wanted}, got {stored.dtype} {list(stored.shape)}")
