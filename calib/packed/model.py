"""Packed modules in the place of those of a model whose weights a checkpoint has in planes."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from calib.packed.modules import PackedEmbedding, PackedHead, PackedLinear, PackedWeight, StoredWeight
from dualbinary import InputError
from dualbinary.checkpoint import (
    MODULE_PARTS,
    QuantizationConfig,
    StoredTensor,
    check_modules,
    planes_name,
)

__all__ = ["pack_modules", "stored_names", "unpack_modules"]


def stored_names(names: Iterable[str], prefix: str, stored: Iterable[str]) -> dict[str, str]:
    """The names that files have for `names` of a model: with the prefix of its decoder, such as "model.", or without.

    `stored` are names in the files; one that they have neither way is given as it is.
    """
    known = set(stored)
    found = {}
    for name in names:
        choices = (name, name.removeprefix(prefix), f"{prefix}{name}")
        found[name] = next((choice for choice in choices if choice in known), name)
    return found


def pack_modules(
    model: Any, quantization: QuantizationConfig, tensors: Mapping[str, StoredTensor], dtype: torch.dtype
) -> None:
    """Replace the modules of `model`, which is on the meta device, whose weights `tensors` have in planes.

    A head that is tied to a table in planes reads that one. Raises InputError where tensors, config.json and model do
    not fit one another, or transformers keeps a weight in a module of another kind.
    """
    modules = dict(model.named_modules())
    tables, tied = _tables(model, modules)
    linears = {
        name: module
        for name, module in modules.items()
        if isinstance(module, nn.Linear | Conv1D) and name not in tables and module is not model.get_output_embeddings()
    }
    in_files = {name.rpartition(".")[0] for name in tensors}
    names = stored_names((*linears, *tables), f"{model.base_model_prefix}.", in_files)
    packed = {names[name]: name for name in names if planes_name(names[name]) in tensors}
    for name in tensors:
        module, _, part = name.rpartition(".")
        if part == "planes" and module not in packed:
            raise InputError(
                f"{name}: the {type(model).__name__} of transformers has no layer or table of that name (experts "
                "may be one tensor there), so its planes cannot stay packed; `dualbinary export` runs the checkpoint"
            )
    sizes = {names[name]: _size(module) for name, module in linears.items()}
    table_sizes = {names[name]: _size(module) for name, module in tables.items()}
    check_modules(quantization, tensors, sizes, table_sizes)
    for in_file, name in packed.items():
        parts = {
            part: (tensors[key].dtype, tensors[key].shape)
            for part in MODULE_PARTS
            if (key := f"{in_file}.{part}") in tensors
        }
        N, K = (sizes | table_sizes)[in_file]
        stored = StoredWeight(N, K, quantization.format_of(in_file), quantization.block_size_of(in_file), parts)
        module = modules[name]
        if isinstance(module, nn.Embedding):
            model.set_submodule(name, PackedEmbedding(stored, module, _scale(name, module), dtype))
        else:
            model.set_submodule(name, PackedLinear(stored, module, dtype))
    if tied is not None and isinstance(table := model.get_input_embeddings(), PackedEmbedding):
        model.set_submodule(tied, PackedHead(table, modules[tied]))
        _untie(model, f"{tied}.weight")


def unpack_modules(model: Any, dtype: torch.dtype) -> None:
    """Put dense modules of transformers' own kind in the place of packed ones."""
    packed = [(name, module) for name, module in model.named_modules() if isinstance(module, PackedWeight | PackedHead)]
    for name, module in packed:
        weight = None if isinstance(module, PackedHead) else nn.Parameter(module.dense(dtype))
        model.set_submodule(name, _dense(module, model, weight))
    if vars(model).pop("_tied_weights_keys", None) is not None:  # which _untie put in front of the class's
        model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)


def _dense(module: PackedWeight | PackedHead, model: Any, weight: nn.Parameter | None) -> nn.Module:
    if isinstance(module, PackedEmbedding):
        dense: Any = module.original
        dense.weight = weight
        for name, buffer in dense.named_buffers():
            assert name == "embed_scale" and buffer.is_meta, name  # all that such modules have, see _scale
            dense.embed_scale = torch.tensor(module.scale)
        return dense
    if isinstance(module, PackedLinear) and module.original is Conv1D:
        dense = Conv1D(module.out_features, module.in_features)
        assert weight is not None
        dense.weight = nn.Parameter(weight.detach().T.contiguous())
    else:
        with torch.device("meta"):
            dense = nn.Linear(module.in_features, module.out_features, bias=False)
        dense.weight = model.get_input_embeddings().weight if weight is None else weight
    dense.bias = module.bias
    return dense


def _tables(model: Any, modules: Mapping[str, nn.Module]) -> tuple[dict[str, nn.Module], str | None]:
    """Vocabulary tables by name, a tied one by that of the embedding, and the name of a head that is tied."""
    names = {id(module): name for name, module in modules.items()}
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    of_layers = getattr(model.base_model, "embed_tokens_per_layer", None)  # of Gemma 4: an input of every layer
    ties = bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False))
    found = (embedding, of_layers, None if ties else head)
    tables: dict[str, nn.Module] = {
        names[id(module)]: module for module in found if isinstance(module, nn.Embedding | nn.Linear)
    }
    return tables, names[id(head)] if ties and isinstance(head, nn.Linear) else None


def _size(module: Any) -> tuple[int, int]:
    """N and K of a layer, V and H of a table."""
    rows, columns = module.weight.shape
    return (columns, rows) if isinstance(module, Conv1D) else (rows, columns)


def _scale(name: str, embedding: nn.Embedding) -> float:
    """What an embedding multiplies its rows by. Raises InputError where its class may do something else to them."""
    if type(embedding) is nn.Embedding:
        return 1.0
    scale = getattr(embedding, "scalar_embed_scale", getattr(embedding, "embed_scale", None))
    if not isinstance(scale, int | float):
        raise InputError(
            f"{name}: its rows are in planes, and transformers' {type(embedding).__name__} may be more than rows of a "
            "table; `dualbinary export` runs the checkpoint"
        )
    return float(scale)


def _untie(model: Any, parameter: str) -> None:
    """Let transformers not look for a parameter that its tables of tied ones name: the module reads the other one."""
    for attribute in ("all_tied_weights_keys", "_tied_weights_keys"):
        keys = getattr(model, attribute, None) or {}
        setattr(model, attribute, {target: source for target, source in keys.items() if target != parameter})
