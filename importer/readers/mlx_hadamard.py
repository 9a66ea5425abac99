"""MLX directories of folded models (Ternary-Bonsai 2): MLX's affine weights, and their rotations in a JSON file.

    config.json      model_type prism_hadamard_qwen35, base_model_type qwen3_5, text_config of its decoder, and
                     quantization as MLX has it; hadamard_config names the file of the declaration (readers/hadamard.py)
    <module>.signs   the signs of the module's inputs, once more

Names of tensors are those of mlx-vlm: the decoder below `language_model.`, a convolution as [C, kernel, 1], and the
weights of norms with the one that transformers adds as it runs. The program that the directory brings along
(requires_runtime) is never looked at.

Source: prism-ml/Ternary-Bonsai-2-27B-mlx-2bit; mlx-vlm 0.7.10, mlx_vlm/models/qwen3_5/qwen3_5.py.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dualbinary import InputError
from dualbinary.files.json_objects import read_json_object
from importer.model import LowBitModel, PlainTensor
from importer.readers.directory import FLOATS, Directory
from importer.readers.hadamard import PREFIX, Declaration, Names, read_declaration
from importer.readers.mlx import as_transformers, is_folded, mlx_weights

__all__ = ["open_mlx_hadamard", "recognises"]

recognises = is_folded
_EXPECTED = {
    "schema_version": 2,
    "base_model_type": "qwen3_5",
    "tensor_namespace": "mlx-vlm-qwen3_5",
    "gdn_activation_layout": "grouped",
}
_TEXT_TYPE = "qwen3_5_text"
_DECODER, _VISION = "language_model.", r"(vision_tower|model\.visual)\..*"
_LAYER = r"language_model\.model\.layers\.\d+\."
_NAMES = Names(
    re.compile(
        rf"{_LAYER}(self_attn\.[qkvo]_proj|linear_attn\.(in_proj_(qkv|z)|out_proj)|mlp\.(gate|up|down)_proj)\.weight"
        r"|language_model\.lm_head\.weight"
    ),
    re.compile(rf"{_LAYER}linear_attn\.out_proj\.weight"),
    table="language_model.model.embed_tokens.weight",
    head="language_model.lm_head.weight",
)


def open_mlx_hadamard(path: Path, config: dict[str, Any]) -> LowBitModel:
    """The reader's `open`."""
    for key, wanted in _EXPECTED.items():
        if config.get(key) != wanted:
            raise InputError(
                f"{path}: config.json: {key}: expected {wanted!r}, got {config.get(key)!r}; give the full-precision "
                "model"
            )
    text = config.get("text_config")
    if not isinstance(text, dict) or text.get("model_type") != _TEXT_TYPE:
        raise InputError(f"{path}: config.json: text_config: expected that of a {_TEXT_TYPE}; fetch config.json again")
    directory = Directory.open(path, {key: value for key, value in config.items() if key != "hadamard_config"})
    pictures = directory.drop(_VISION)
    weights = mlx_weights(directory, config)
    declaration = _declaration(directory, config, {name: (it.N, it.K) for name, it in weights.items()})
    for module in directory.modules("signs"):
        _check_signs(directory, module, declaration)
    model = directory.model("mlx", weights)
    renamed = {
        _renamed(module): replace(weight, rotation=declaration.rotation(f"{module}.weight"))
        for module, weight in weights.items()
    }
    notes = [declaration.note()]
    if pictures:
        notes.append(f"{len(pictures)} tensors for pictures are left out: the model is made for text alone")
    tied = {key: config[key] for key in ("tie_word_embeddings",) if key in config}
    return replace(
        model,
        config={**tied, **text, "architectures": ["Qwen3_5ForCausalLM"]},
        weights=renamed,
        tensors=_tensors(model.tensors, declaration),
        notes=tuple(notes),
    )


def _declaration(directory: Directory, config: dict[str, Any], sizes: dict[str, tuple[int, int]]) -> Declaration:
    """What the file of the declaration says of weights that are there. Raises InputError."""
    name = config.get("hadamard_config")
    file = directory.path / str(name)
    if not isinstance(name, str) or Path(name).name != name or not file.is_file():
        raise InputError(
            f"{directory.path}: config.json: hadamard_config: expected the name of a file beside it, got {name!r}; "
            "fetch the directory again"
        )
    shapes = {name: tensor.shape for name, tensor in directory.stored.items()}
    shapes |= {f"{module}.weight": size for module, size in sizes.items()}  # packed, the stored shape is another
    declaration = read_declaration(read_json_object(file), shapes, _NAMES, file)
    if declaration is None:
        raise InputError(f"{file}: expected keys {PREFIX}*, got none of them; fetch the directory again")
    for key, size in _module_blocks(config).items():
        rotation = declaration.rotation(f"{key}.weight")
        if rotation is None or rotation.block_size != size:
            got = "none" if rotation is None else rotation.block_size
            raise InputError(f"{file}: {key}: expected blocks of {size}, as config.json says, got {got}")
    return declaration


def _module_blocks(config: dict[str, Any]) -> dict[str, Any]:
    modules = config.get("modules", [])
    known = isinstance(modules, list) and all(isinstance(each, dict) and "path" in each for each in modules)
    if not known:
        raise InputError('config.json: modules: expected a list of objects with "path" and "block"')
    return {str(each["path"]): each.get("block") for each in modules}


def _check_signs(directory: Directory, module: str, declaration: Declaration) -> None:
    """Hold the signs that a module repeats against the declaration."""
    name, rotation = f"{module}.signs", declaration.rotation(f"{module}.weight")
    if rotation is None:
        raise InputError(f"{name}: not expected; the declaration does not fold {module}; give the full-precision model")
    directory.take(name, (*FLOATS, "I8", "I32"), (len(rotation.signs),), "as many as inputs")
    if not np.array_equal(directory.array(name).astype(np.float32), rotation.signs):
        raise InputError(f"{name}: other signs than in the declaration; fetch the directory again")


def _renamed(name: str) -> str:
    if not name.startswith(_DECODER):
        raise InputError(f"{name}: expected tensors of {_DECODER}*; give the full-precision model")
    return name.removeprefix(_DECODER)


def _tensors(plain: Mapping[str, PlainTensor], declaration: Declaration) -> dict[str, PlainTensor]:
    """Plain tensors as transformers has them."""
    found: dict[str, PlainTensor] = {}
    for name, tensor in plain.items():
        rotation = declaration.rotation(name)
        found[_renamed(name)] = tensor if rotation is None else tensor.as_float(rotation.unrotated)
    return as_transformers(found, _TEXT_TYPE)
