"""The shapes of a model that its plan is computed from: what config.json says alone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from transformers import PreTrainedModel

from calib.data.generate import key_width
from calib.layer_formats import LayerFormats
from calib.models.source import decoder_blocks, parameter_count
from calib.plan_parts import linear_sizes
from dualbinary import InputError
from dualbinary.contract.weight import PlaneFormat

__all__ = ["Shapes"]


@dataclass(frozen=True)
class Shapes:
    """Of a model: hidden size H, vocabulary V, parameters, and [N, K] of the layers to quantize in each block.

    `names` are those of the layers, where anything asks for them; `keys`, numbers that are a token's keys in a block,
    0 for H.
    """

    hidden: int
    vocabulary: int
    parameters: int
    blocks: tuple[tuple[tuple[int, int], ...], ...]
    names: tuple[tuple[str, ...], ...] = ()
    keys: int = 0

    @classmethod
    def of(cls, model: PreTrainedModel) -> "Shapes":
        """The shapes of a model, which needs no memory for parameters."""
        config = model.config.get_text_config()
        found = [
            [(f"{name}.{path}", size) for path, size in linear_sizes(block)] for name, block in decoder_blocks(model)
        ]
        names = tuple(tuple(name for name, _ in block) for block in found)
        blocks = tuple(tuple(size for _, size in block) for block in found)
        return cls(config.hidden_size, config.vocab_size, parameter_count(model), blocks, names, key_width(model))

    def layers(self, formats: LayerFormats) -> Iterator[tuple[PlaneFormat, int, int]]:
        """Format, N and K of every layer to quantize."""
        unnamed = tuple(("",) * len(block) for block in self.blocks)
        for names, block in zip(self.names or unnamed, self.blocks, strict=True):
            for name, (N, K) in zip(names, block, strict=True):
                yield formats.of(name), N, K

    @property
    def weights(self) -> int:
        """Weights that are quantized."""
        return sum(N * K for block in self.blocks for N, K in block)

    @property
    def times_first(self) -> float:
        """Blocks, counted by their weights in units of the first."""
        return self.weights / sum(N * K for N, K in self.blocks[0])

    @property
    def first_block(self) -> "Shapes":
        """The first block alone."""
        return replace(self, blocks=self.blocks[:1], names=self.names[:1])

    def named_as_stored(self, formats: LayerFormats, prefix: str) -> "Shapes":
        """With names for which every override matches: those of the model, or without its prefix or with it.

        Which of them files have is not known before they are read. Raises InputError where an override matches none.
        """
        changes: list[Callable[[str], str]] = [
            str,
            lambda name: name.removeprefix(f"{prefix}."),
            lambda name: f"{prefix}.{name}",
        ]
        error: InputError | None = None
        for change in changes:
            names = tuple(tuple(map(change, block)) for block in self.names)
            inputs = {
                name: K
                for block, sizes in zip(names, self.blocks, strict=True)
                for name, (_, K) in zip(block, sizes, strict=True)
            }
            try:
                formats.check(inputs)
                return replace(self, names=names)
            except InputError as found:
                error = error or found
        assert error is not None
        raise error
