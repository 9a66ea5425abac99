"""A full-precision model whose weights come from its files when they are needed, module by module.

The model is built from config.json with parameters on the meta device, which costs no memory; `load` fills a module,
`unload` empties it. So blockwise calibration holds one block, whatever the model's size.

Linear layers of the decoder's blocks are replaced by QuantLinear before anything is loaded. Which ones: every
torch.nn.Linear, and GPT-2's Conv1D, whose weight the files hold transposed. What else has a large weight in a block
(the experts of some mixtures are one tensor of three dimensions) keeps full precision only if the user says so by
`skip`. The short convolutions of each channel beside linear layers (LFM2, linear attention, Mamba-2) always keep it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from calib.layer_formats import LayerFormats
from calib.layers import QUANTIZED, QuantLinear
from calib.models.loading import model_config
from calib.quant_table import QuantTable
from calib.rotation import InputRotation
from dualbinary import InputError
from dualbinary.checkpoint import CONFIG_FILE, StoredTensor, read_model, read_quantization_config
from dualbinary.contract.weight import PlaneFormat

__all__ = ["SourceModel", "check_length", "decoder_blocks", "empty_model", "parameter_count"]

# A parameter of a block with more than this many dimensions is a stack of matrices that no Linear holds.
MATRIX_DIMENSIONS = 2


@dataclass(frozen=True)
class _Place:
    """The stored tensor of a parameter."""

    stored: str
    transposed: bool = False


def empty_model(directory: Path) -> PreTrainedModel:
    """The causal language model of config.json, its parameters on the meta device. Raises InputError."""
    try:
        config = model_config(directory)
        with init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except Exception as error:  # whatever comes up in the code of an architecture that meets an unexpected value
        raise InputError(
            f"{directory / CONFIG_FILE}: transformers cannot build a causal language model from it ({error})"
        ) from None
    return model.eval()


def decoder_blocks(model: PreTrainedModel) -> list[tuple[str, nn.Module]]:
    """The decoder's blocks with their names: the ModuleList that holds most of the parameters. Raises InputError."""
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    sizes = [sum(parameter.numel() for parameter in module.parameters()) for _, module in lists]
    if not lists or not max(sizes):
        raise InputError(f"{type(model).__name__}: has no list of decoder blocks to calibrate")
    name, blocks = lists[sizes.index(max(sizes))]
    return [(f"{name}.{index}", block) for index, block in enumerate(blocks)]


def check_length(model: PreTrainedModel, length: int) -> None:
    """Raise InputError where windows of `length` tokens are longer than a model's table of learned positions.

    Rotations go on beyond the positions of config.json, so those of other models are no limit.
    """
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    words = model.get_input_embeddings()
    tables = [part for part in model.modules() if isinstance(part, nn.Embedding) and part is not words]
    # OPT's table has two rows more than positions; tables of token types and the like are far smaller.
    if limit is not None and length > limit and any(table.num_embeddings >= limit for table in tables):
        raise InputError(
            f"--length {length}: the model has learned positions for {limit} tokens, expected at most as many; "
            f"set --length {limit}"
        )


def parameter_count(model: PreTrainedModel) -> int:
    """Parameters of a model, loaded or not; a head that is tied to the embedding does not count."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    count = sum(parameter.numel() for parameter in model.parameters())
    if head is None or embedding is None or not model.config.get_text_config().tie_word_embeddings:
        return count
    return count if head.weight is embedding.weight else count - head.weight.numel()


class SourceModel:
    """A model directory as a torch model on the meta device.

    Attributes:
        directory: the model's directory.
        config: the values of its config.json.
        tensors: what its files store, by name.
        model: the transformers model; parameters on the meta device until they are loaded.
        blocks: the decoder's blocks in order, as (name, module).
        linears: the layers to quantize in order, by their name in the files.
        formats: the format of each of them, before its group size is a number.
        tables: vocabulary tables of the student, once it has some (calib.models.tables).
        rotation_of: the rotation of layers and tables by their width.
    """

    def __init__(
        self,
        directory: Path,
        formats: PlaneFormat | LayerFormats,
        skip: tuple[str, ...] = (),
        rotation_of: Callable[[int], InputRotation | None] = lambda _: None,
    ) -> None:
        """Open `directory`; one format is that of all layers, and none is rotated unless `rotation_of` says so.

        Raises InputError for whatever keeps the model from being quantized.
        """
        self.directory = Path(directory)
        self.rotation_of = rotation_of
        self.formats = LayerFormats(formats) if isinstance(formats, PlaneFormat) else formats
        if read_quantization_config(self.directory) is not None:
            raise InputError(
                f"{directory}: already a dualbinary checkpoint; give the full-precision model it came from"
            )
        stored = read_model(self.directory)
        self.config: dict[str, Any] = stored.config
        self.tensors: dict[str, StoredTensor] = stored.tensors
        self.model = empty_model(self.directory)
        self.blocks = decoder_blocks(self.model)
        self._places = self._find_places()
        self._read_buffers()
        self.skipped: list[str] = []
        self.tables: list[QuantTable] = []
        self.linears = self._replace_linears(skip)

    @property
    def vocabulary(self) -> int:
        """V: tokens are below it."""
        return self.model.config.get_text_config().vocab_size

    def set_formats(self, formats: LayerFormats) -> None:
        """Give all layers, none of which is quantized yet, other formats. Raises InputError where they do not fit."""
        formats.check({name: layer.in_features for name, layer in self.linears.items()})
        self.formats = formats
        for name, layer in self.linears.items():
            layer.format = formats.of(name).for_inputs(layer.in_features)

    def load(
        self, module: nn.Module, dtype: torch.dtype = torch.float32, linear_dtype: torch.dtype | None = None
    ) -> None:
        """Fill the parameters of `module`, which may be the whole model, from the files.

        They become `dtype`; the full-precision weights of QuantLinear become `linear_dtype`, if it is given.
        """
        names = {id(parameter): name for name, parameter in self.model.named_parameters(remove_duplicate=False)}
        linear_weights = {id(layer.weight) for layer in module.modules() if isinstance(layer, QuantLinear)}
        loaded: dict[_Place, nn.Parameter] = {}  # a tied head becomes the embedding, which is large, not a copy of it
        for owner in module.modules():
            for key, parameter in list(owner.named_parameters(recurse=False)):
                if parameter.device.type != "meta" or key in QUANTIZED:
                    continue
                place = self._places[names[id(parameter)]]
                if place not in loaded:
                    kind = linear_dtype if linear_dtype and id(parameter) in linear_weights else dtype
                    value = self.read(place.stored, place.transposed).to(kind)
                    loaded[place] = nn.Parameter(value, requires_grad=False)
                setattr(owner, key, loaded[place])
        if module is self.model:
            self.model.tie_weights()

    def unload(self, module: nn.Module) -> None:
        """Give back the memory of the parameters of `module`; those of quantized weights go too, for good."""
        for owner in module.modules():
            if isinstance(owner, QuantLinear):
                owner.quantized = False
            for key, parameter in list(owner.named_parameters(recurse=False)):
                if isinstance(owner, QuantLinear) and key in QUANTIZED:
                    setattr(owner, key, None)
                elif parameter.device.type != "meta":
                    setattr(owner, key, nn.Parameter(parameter.to("meta"), requires_grad=False))

    def read(self, stored: str, transposed: bool = False) -> Tensor:
        """The stored tensor of this name, a private copy."""
        tensor = self.tensors[stored]
        with safe_open(tensor.file, framework="pt") as file:
            value = file.get_tensor(tensor.name)
        return value.T.contiguous() if transposed else value.clone()

    def outside(self) -> Iterator[tuple[str, nn.Module]]:
        """The modules with parameters that no block contains: embeddings, the last norm, the head."""
        inside = {id(module) for _, block in self.blocks for module in block.modules()}
        for name, module in self.model.named_modules():
            if id(module) not in inside and next(module.parameters(recurse=False), None) is not None:
                yield name, module

    def stored_module(self, module: nn.Module) -> str:
        """The name that the files have for a module of the model with a weight."""
        name = next(name for name, one in self.model.named_modules() if one is module)
        return self._places[f"{name}.weight"].stored.removesuffix(".weight")

    def _find_places(self) -> dict[str, _Place]:
        """The place of each parameter of the model; of a tied one, that of the tensor that it is tied to."""
        tied = {id(parameter): name for name, parameter in self.model.named_parameters(remove_duplicate=False)}
        places: dict[str, _Place] = {}
        embedding = self.model.get_input_embeddings().weight
        head, ties = self.model.get_output_embeddings(), self.model.config.get_text_config().tie_word_embeddings
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            stored = self._stored_name(name)
            if stored is None and head is not None and parameter is head.weight and ties:
                stored = self._stored_name(tied[id(embedding)])
            if stored is None:
                raise InputError(
                    f"{self.directory}: no tensor is stored for {name}. Models whose files transformers renames or "
                    f"stacks while it loads them, as {self.config.get('model_type')} may be, cannot be calibrated; "
                    "export them without (python -m exporter)"
                )
            if tuple(parameter.shape) != self.tensors[stored].shape:
                raise InputError(
                    f"{self.tensors[stored].file}: {stored} is {list(self.tensors[stored].shape)}, "
                    f"expected {list(parameter.shape)} from config.json"
                )
            places[name] = _Place(stored)
        return places

    def _stored_name(self, name: str) -> str | None:
        """The stored tensor of a parameter; files leave out the prefix of the base model, or have one more."""
        prefix = self.model.base_model_prefix
        choices = (name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}")
        return next((choice for choice in choices if choice in self.tensors), None)

    def _read_buffers(self) -> None:
        """Fill the buffers that the files hold; they are small, and not on the meta device."""
        kept = self.model.state_dict().keys()
        for name, buffer in self.model.named_buffers():
            stored = self._stored_name(name) if name in kept else None
            if stored is not None and self.tensors[stored].shape == tuple(buffer.shape):
                buffer.copy_(self.read(stored))

    def _replace_linears(self, skip: tuple[str, ...]) -> dict[str, QuantLinear]:
        layers: dict[str, QuantLinear] = {}
        used = dict.fromkeys(skip, False)
        seen: dict[int, str] = {}
        for block_name, block in self.blocks:
            for path, module in list(block.named_modules(remove_duplicate=False)):
                name = f"{block_name}.{path}"
                if not isinstance(module, (nn.Linear, Conv1D, QuantLinear)):
                    self._refuse_stacks(name, module, skip, used)
                    continue
                stored = self._places[f"{name}.weight"].stored.removesuffix(".weight")
                matching = [pattern for pattern in skip if fnmatchcase(stored, pattern)]
                used.update(dict.fromkeys(matching, True))
                if isinstance(module, QuantLinear):  # the model uses this block twice
                    raise _shared(stored, module.name)
                twin = seen.setdefault(id(module.weight), stored)
                if twin != stored and not (matching and twin in self.skipped):
                    raise _shared(stored, twin)
                if matching:
                    self.skipped.append(stored)
                    continue
                layers[stored] = self._replace(block, path, name, stored, module)
        for pattern, hit in used.items():
            if not hit:
                raise InputError(f"--skip {pattern}: matches no module; a module is called {next(iter(layers), '?')}")
        if not layers:
            raise InputError(f"{self.directory}: no linear layer is left to quantize")
        self.formats.check({name: layer.in_features for name, layer in layers.items()})
        return layers

    def _replace(self, block: nn.Module, path: str, name: str, stored: str, module: nn.Linear | Conv1D) -> QuantLinear:
        transposed = isinstance(module, Conv1D)
        weight = module.weight.T if transposed else module.weight
        layer = QuantLinear(stored, weight, module.bias, self.formats.of(stored))
        layer.rotation = self.rotation_of(layer.in_features)
        self._places[f"{name}.weight"] = _Place(self._places[f"{name}.weight"].stored, transposed)
        block.set_submodule(path, layer)
        return layer

    def _refuse_stacks(self, name: str, module: nn.Module, skip: tuple[str, ...], used: dict[str, bool]) -> None:
        for key, parameter in module.named_parameters(recurse=False):
            if parameter.dim() <= MATRIX_DIMENSIONS:
                continue
            matching = [pattern for pattern in skip if fnmatchcase(f"{name}.{key}", pattern)]
            used.update(dict.fromkeys(matching, True))
            if not matching and not _is_depthwise(module):
                raise InputError(
                    f"{name}.{key}: {list(parameter.shape)} is no matrix (but the experts of a mixture, or a "
                    "convolution), and calibration cannot quantize it; "
                    f"--skip '*.{name.rpartition('.')[2]}.{key}' keeps it in full precision"
                )


def _is_depthwise(module: nn.Module) -> bool:
    """Tell if `module` is a convolution of each channel by itself, which has no more than a few weights for each."""
    return isinstance(module, nn.Conv1d) and module.groups == module.in_channels == module.out_channels


def _shared(name: str, other: str) -> InputError:
    return InputError(
        f"{name}: shares its weight with {other}; a weight that two layers use cannot be calibrated for each. "
        "Leave both out with --skip"
    )
