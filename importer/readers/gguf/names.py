"""Which parameter of transformers' model each tensor of a GGUF file is."""

from dataclasses import dataclass
from typing import Any

from dualbinary import InputError
from importer.readers.gguf.container import Container, GgufTensor
from importer.readers.gguf.families import Family
from importer.readers.gguf.keys import Keys
from importer.readers.gguf.rotary import FACTOR_TENSORS

__all__ = ["Parameter", "parameters"]


@dataclass(frozen=True)
class Parameter:
    """A parameter of the model.

    Attributes:
        name: of transformers, such as "model.layers.0.mlp.up_proj.weight".
        shape: in transformers.
        quantizable: whether it is the weight of a linear layer or the table of token embeddings.
        transposed: whether transformers stores [K, N] where a weight [N, K] is meant.
        part: where its rows are in those of the module, and of how many tensors these are; (0, 1) for all of them.
    """

    name: str
    shape: tuple[int, ...]
    quantizable: bool
    transposed: bool
    part: tuple[int, int] = (0, 1)

    @property
    def module(self) -> str:
        """The name of the module whose weight it is."""
        return self.name.removesuffix(".weight")


def parameters(keys: Keys, config: Any, family: Family) -> tuple[dict[str, Parameter], list[str]]:
    """The parameter for each tensor of the file that is one, in the order of the file, and the tensors nobody reads.

    Names of tensors are those of the gguf library's table for the architecture. Raises InputError where a tensor has
    no parameter, a parameter no tensor, or shapes differ.
    """
    container = keys.container
    by_tensor = _names(keys, config, family)
    others = [name for name in container.tensors if name not in by_tensor and name not in FACTOR_TENSORS]
    unread = [name for name in others if family.unread(name, config)]
    unknown = [name for name in others if name not in unread]
    if unknown:
        raise InputError(
            f"{container.path}: tensor {unknown[0]!r} is not known in a model of type {keys.architecture}"
            f"{_and_others(unknown)}; give the full-precision model"
        )
    missing = [name for name in by_tensor if name not in container.tensors]
    if missing:
        raise InputError(
            f"{container.path}: no tensor {missing[0]!r}, which a model of type {keys.architecture} with this metadata "
            f"has{_and_others(missing)}; the file is incomplete"
        )
    found = {name: by_tensor[name] for name in container.tensors if name in by_tensor}
    for name, parameter in found.items():
        _check_shape(container, container.tensors[name], parameter)
    return found, unread


def _and_others(names: list[str]) -> str:
    return f" (and {len(names) - 1} others)" if len(names) > 1 else ""


def _check_shape(container: Container, tensor: GgufTensor, parameter: Parameter) -> None:
    """Shapes are alike but for axes of length 1, which llama.cpp leaves out."""
    wanted = parameter.shape[::-1] if parameter.transposed else parameter.shape
    if [length for length in tensor.shape if length > 1] != [length for length in wanted if length > 1]:
        raise InputError(
            f"{container.path}: tensor {tensor.name!r}: expected {list(wanted)} by the metadata, got "
            f"{list(tensor.shape)}"
        )


def _names(keys: Keys, config: Any, family: Family) -> dict[str, Parameter]:
    import gguf
    import torch
    import transformers
    from transformers.pytorch_utils import Conv1D

    path = keys.container.path
    try:
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config)
    except Exception as error:  # whatever a class raises at values that do not go together
        raise InputError(f"{path}: transformers cannot build this model: {error}") from error
    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == keys.architecture)
    table = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    prefix = f"{model.base_model_prefix}."
    head = f"{_head_module(model)}.weight"
    found: dict[str, Parameter] = {}
    for name, value in (*model.named_parameters(), *_stored_buffers(model)):  # tied ones once
        parts = _table_names(name, family)
        for number, part in enumerate(parts):
            stored = name == head and "output.weight"
            for known in (part, part.removeprefix(prefix)):
                stored = stored or table.get_name(known, try_suffixes=(".weight", ".bias"))
            if not stored or stored in found:
                raise InputError(
                    f"{path}: the library gguf has no name for {name!r} in a model of type {keys.architecture}; give "
                    "the full-precision model"
                )
            module = model.get_submodule(name.rpartition(".")[0])
            linear = isinstance(module, (torch.nn.Linear, Conv1D)) or _is_token_table(model, module)
            weight = name.endswith(".weight")
            shape = (value.shape[0] // len(parts), *value.shape[1:])
            transposed = weight and isinstance(module, Conv1D)
            found[stored] = Parameter(name, shape, weight and linear, transposed, (number, len(parts)))
    return found


def _table_names(name: str, family: Family) -> list[str]:
    """A parameter's name, or those of the parts whose rows it joins, as the library's table has them."""
    for own, parts in ({own: (part,) for own, part in family.names.items()} | dict(family.joined)).items():
        if f".{own}." in f".{name}.":
            return [name.replace(own, part) for part in parts]
    return [name]


def _stored_buffers(model: Any) -> list[tuple[str, Any]]:
    """Buffers that are in files: factors of layers."""
    stored = model.state_dict()
    return [(name, buffer) for name, buffer in model.named_buffers() if name in stored]


def _is_token_table(model: Any, module: Any) -> bool:
    return module is model.get_input_embeddings() or module is getattr(model.base_model, "embed_tokens_per_layer", None)


def _head_module(model: Any) -> str:
    head = model.get_output_embeddings()
    return next(name for name, module in model.named_modules() if module is head)
