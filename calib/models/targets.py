"""Weights to approach that are not the model's own: what another quantizer made of it, dequantized.

    a checkpoint of dualbinary       its planes and scales
    a plain model directory          its weights; what transformers saves after `dequantize=True` is one
    any other quantized directory    loaded by transformers, whole, and dequantized by it where its format can be

Layers are found by their place in the model, so that names in the files may differ.
"""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from calib.layers import QuantLinear
from calib.models.loading import load_model
from calib.models.source import SourceModel
from calib.models.stored_checkpoint import StoredCheckpoint
from calib.student_weight import weight_of_planes
from dualbinary import InputError
from dualbinary.checkpoint import CONFIG_FILE, QUANT_METHOD
from dualbinary.contract.weight import PlaneFormat
from dualbinary.files.json_objects import read_json_object

__all__ = ["Targets"]


class Targets:
    """The weights of another directory for the layers of `source`."""

    def __init__(self, directory: Path, source: SourceModel) -> None:
        """Open `directory`. Raises InputError where it is no model.

        One that only transformers reads is loaded when the first weight is asked for.
        """
        self.directory = directory
        if not directory.is_dir():
            raise InputError(f"--from {directory}: not a directory; expected a Hugging Face model directory")
        self._paths = {id(module): path for path, module in source.model.named_modules()}
        self._read = self._reader()

    def of(self, layer: QuantLinear) -> Tensor:
        """The weight, float32 [N, K], that `layer` is to approach, of its inputs as they are.

        Raises InputError where it is not there, or cannot be read dequantized.
        """
        weight = self._read(layer, self._paths[id(layer)]).to(layer.weight.device, torch.float32)
        if weight.shape != layer.weight.shape:
            raise InputError(
                f"--from {self.directory}: {layer.name} is {list(weight.shape)}, expected "
                f"{list(layer.weight.shape)}; is it the same model?"
            )
        return weight

    def _reader(self) -> Callable[[QuantLinear, str], Tensor]:
        block = read_json_object(self.directory / CONFIG_FILE).get("quantization_config")
        if block is None:
            return self._of_plain(SourceModel(self.directory, PlaneFormat(2, 64)))
        if isinstance(block, dict) and block.get("quant_method") == QUANT_METHOD:
            return self._of_checkpoint(StoredCheckpoint(self.directory))
        return self._of_loaded

    def _of_plain(self, other: SourceModel) -> Callable[[QuantLinear, str], Tensor]:
        modules = dict(other.model.named_modules())

        def read(layer: QuantLinear, path: str) -> Tensor:
            module = modules.get(path)
            if not isinstance(module, QuantLinear):
                raise self._missing(layer)
            other.load(module)
            weight = module.weight.detach()
            other.unload(module)
            return weight

        return read

    def _of_checkpoint(self, checkpoint: StoredCheckpoint) -> Callable[[QuantLinear, str], Tensor]:
        def read(layer: QuantLinear, _: str) -> Tensor:
            if not checkpoint.holds(layer.name):  # kept in full precision
                return layer.weight.detach()
            planes, scales = checkpoint.read(layer.name, (layer.out_features, layer.in_features))
            form = checkpoint.format_of(layer.name).for_inputs(layer.in_features)
            weight = weight_of_planes(planes, scales, layer.in_features, form)
            rotation = checkpoint.rotation_of(layer.name, layer.in_features)
            return weight if rotation is None else rotation.undo(weight)

        return read

    def _of_loaded(self, layer: QuantLinear, path: str) -> Tensor:
        weight = getattr(self._loaded.get(path), "weight", None)
        if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.dim() != 2:
            raise self._missing(layer)
        return weight.detach().T if isinstance(self._loaded[path], Conv1D) else weight.detach()

    @cached_property
    def _loaded(self) -> dict[str, nn.Module]:
        """All modules of the other model, which transformers dequantizes when the first of them is asked for."""
        try:
            model = load_model(self.directory)
            if not all(_is_plain(module) for _, module in model.named_modules()):
                model.dequantize()
        except Exception as error:  # whatever the code of a quantizer raises, its own package missing among it
            raise InputError(
                f"--from {self.directory}: transformers does not load it dequantized ({error}); save a dequantized copy"
            ) from None
        return dict(model.named_modules())

    def _missing(self, layer: QuantLinear) -> InputError:
        return InputError(
            f"--from {self.directory}: has no weight matrix for {layer.name}; expected another form of the same model"
        )


def _is_plain(module: nn.Module) -> bool:
    """Say that the weight of a module, if it has one, is a number for each weight."""
    weight = getattr(module, "weight", None)
    return not isinstance(weight, Tensor) or (weight.is_floating_point() and weight.element_size() > 1)
