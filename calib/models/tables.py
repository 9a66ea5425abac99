"""Where a model has its vocabulary tables, and how the student's get there.

The model's own modules stay as they are, for the teacher; hooks put the student's values in the place of theirs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from calib.models.source import SourceModel
from calib.quant_table import QuantTable
from calib.rotation import InputRotation
from dualbinary import InputError
from dualbinary.contract.weight import PlaneFormat

__all__ = ["TablePlace", "attach_table", "detach_tables", "table_names", "table_places"]

CHILD = "student_table"  # the submodule of an embedding or a head that its table is
PROBE = 4  # tokens that an embedding is tried on


@dataclass(frozen=True)
class TablePlace:
    """Where a model has a vocabulary table.

    Attributes:
        name: of the module in the model's files; that of the embedding where it is both.
        embedding, head: the modules that it belongs to.
    """

    name: str
    embedding: nn.Module | None
    head: nn.Linear | None

    @property
    def module(self) -> nn.Module:
        """The module that owns the weight."""
        owner = self.embedding or self.head
        assert owner is not None
        return owner

    @property
    def shape(self) -> tuple[int, int]:
        """V and H."""
        rows, width = self.module.weight.shape  # type: ignore[union-attr, misc]
        return int(rows), int(width)


def table_places(source: SourceModel) -> list[TablePlace]:
    """The tables of a model, loaded or not. Raises InputError where its embedding or head is of an unknown kind."""
    model: Any = source.model
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    for module, kind, words in ((embedding, nn.Embedding, "token embedding"), (head, nn.Linear, "head")):
        if not isinstance(module, kind):
            raise InputError(
                f"{source.directory}: its {words} is {type(module).__name__}, expected {kind.__name__}; leave out "
                "--embedding-bits"
            )
    if head.weight is embedding.weight or model.config.get_text_config().tie_word_embeddings:
        return [TablePlace(source.stored_module(embedding), embedding, head)]
    return [
        TablePlace(source.stored_module(embedding), embedding, None),
        TablePlace(source.stored_module(head), None, head),
    ]


def table_names(model: PreTrainedModel) -> set[str]:
    """Names that files can have for the tables of a model: with the prefix of its decoder or without."""
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    names = [name for name, module in model.named_modules() if any(module is one for one in modules)]
    prefix = f"{model.base_model_prefix}."
    return {choice for name in names for choice in (name, name.removeprefix(prefix), f"{prefix}{name}")}


def attach_table(
    source: SourceModel,
    place: TablePlace,
    plane_format: PlaneFormat,
    planes: Tensor,
    scales: Tensor,
    rotation: InputRotation | None = None,
) -> QuantTable:
    """Make `planes` and `scales` the student's table of the loaded model, from now on. Raises InputError.

    Its rows are rotated: an embedding turns what it looks up back, a head rotates what it reads.
    """
    weight: Any = place.module.weight
    table = QuantTable(place.name, weight, plane_format, heads=place.head is not None)
    table.rotation = rotation
    table.set_quantized(planes.to(weight.device), scales.to(weight.device))
    if place.embedding is not None:
        scale = _embedding_scale(source, place)
        table.hooks.append(place.embedding.register_forward_hook(_looks_up(table, scale)))
    if place.head is not None:
        table.hooks.append(place.head.register_forward_hook(_multiplies(table)))
    place.module.add_module(CHILD, table)
    source.tables.append(table)
    return table


def detach_tables(source: SourceModel) -> None:
    """Let the model have its full-precision tables alone."""
    for table in source.tables:
        for hook in table.hooks:
            hook.remove()
    for place in table_places(source):
        if hasattr(place.module, CHILD):
            delattr(place.module, CHILD)
    source.tables.clear()


@torch.no_grad()
def _embedding_scale(source: SourceModel, place: TablePlace) -> Any:
    """What an embedding multiplies its rows by. Raises InputError where it does something else to them."""
    embedding: Any = place.embedding
    scale = getattr(embedding, "embed_scale", 1.0)
    ids = torch.arange(min(PROBE, len(embedding.weight)), device=embedding.weight.device)
    if not torch.equal(embedding(ids), embedding.weight[ids] * scale):
        raise InputError(
            f"{source.directory}: its token embedding, {type(embedding).__name__}, is more than rows of a table; leave "
            "out --embedding-bits"
        )
    return scale


def _looks_up(table: QuantTable, scale: Any) -> Callable[..., Any]:
    def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        return (table.rows(args[0]) * scale).to(output.dtype) if table.quantized else None

    return hook


def _multiplies(table: QuantTable) -> Callable[..., Any]:
    def hook(head: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if not table.quantized:
            return None
        bias: Any = head.bias
        logits = functional.linear(table.rotate(args[0]).to(output.dtype), table.whole(output.dtype))
        return logits if bias is None else logits + bias.to(output.dtype)

    return hook
