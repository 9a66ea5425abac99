"""Planes and scales of a finished checkpoint, put back on the model that it was made from."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from calib.layers import QuantLinear
from calib.models.source import SourceModel
from calib.models.tables import TablePlace, attach_table, detach_tables, table_places
from calib.rotation import InputRotation
from dualbinary import InputError
from dualbinary.checkpoint import (
    load_module,
    load_rotation,
    order_name,
    planes_name,
    read_quantization_config,
    rotation_signs_name,
    scales_name,
    stored_tensors,
)
from dualbinary.contract.scale_codes import scale_values
from dualbinary.contract.weight import PlaneFormat

__all__ = ["StoredCheckpoint"]


class StoredCheckpoint:
    """A checkpoint directory whose planes and scales fit the layers of its full-precision model.

    Attributes:
        directory: where it is.
        format: the form of its weights, where no override says another one.
        mixed: some modules have another one.
        rotated: the inputs of some are rotated.
    """

    def __init__(self, directory: Path) -> None:
        """Open `directory`. Raises InputError where it is not a checkpoint of dualbinary."""
        self.directory = directory
        if not directory.is_dir():
            raise InputError(f"{directory}: not a directory; expected a checkpoint that calibration wrote")
        quantization = read_quantization_config(directory)
        if quantization is None:
            raise InputError(
                f"{directory}: its config.json has no quantization_config; expected a checkpoint that calibration wrote"
            )
        self.format, self.mixed = quantization.plane_format, len(quantization.formats) > 1
        self.rotated = any(quantization.block_size_of(module) is not None for module in ("", *quantization.overrides))
        self._quantization = quantization
        self._tensors = stored_tensors(directory)

    def format_of(self, module: str) -> PlaneFormat:
        """The form in which `read` gives a module: every output has scales of its own."""
        return replace(self._quantization.format_of(module), per_tensor=False)

    def holds(self, module: str) -> bool:
        """Say that a layer or table is quantized in the checkpoint."""
        return planes_name(module) in self._tensors

    def read(self, module: str, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Planes uint8 [P, N, Kp/8] and scales float32 [C, N, groups] of a layer or table of size [N, K].

        Raises InputError where the checkpoint does not have them or they do not fit.
        """
        if not self.holds(module):
            raise InputError(f"{self.directory}: has no planes of {module}; is it a checkpoint of another model?")
        if scales_name(module) not in self._tensors:
            raise InputError(f"{self.directory}: has planes of {module}, but no scales; fetch or write it again")
        if order_name(module) in self._tensors:
            raise InputError(
                f"{self.directory}: {module} reads its inputs in another order (act-order), which calibration does "
                "not; export it as it is, or start from the full-precision model"
            )
        form = self._quantization.format_of(module)
        weight = load_module(self._tensors, module, *size, form).with_own_scales()
        return torch.from_numpy(weight.planes), torch.from_numpy(scale_values(weight.scales)).float()

    def rotation_of(self, module: str, width: int) -> InputRotation | None:
        """The rotation of a layer or table of `width` inputs; None where it has none. Raises InputError."""
        if not self.holds(module) or self._quantization.block_size_of(module) is None:
            return None
        found = self._tensors.get(rotation_signs_name(module))
        if found is None or found.shape != (width,):
            shape = "none" if found is None else list(found.shape)
            raise InputError(
                f"{self.directory}: the signs of the rotation of {module} should be [{width}], got {shape}; fetch or "
                "write it again"
            )
        stored = load_rotation(self._quantization, self._tensors, module)
        return None if stored is None else InputRotation(stored)

    def apply(self, source: SourceModel) -> None:
        """Give the loaded model's layers, and its tables, their format, rotation, planes and scales.

        What the checkpoint kept in full precision stays so. Raises InputError where it holds none of the layers.
        """
        layers = list(source.linears.values())
        held = [layer for layer in layers if self.holds(layer.name)]
        if not held:
            self.read(layers[0].name, _size(layers[0]))
        for layer in layers:
            layer.quantized = False
        for layer in held:
            planes, scales = self.read(layer.name, _size(layer))
            layer.format = self.format_of(layer.name).for_inputs(layer.in_features)
            layer.rotation = self.rotation_of(layer.name, layer.in_features)
            layer.set_quantized(planes, scales)
        detach_tables(source)
        for place in self.tables_of(source):
            form = self.format_of(place.name).for_inputs(place.shape[1])
            rotation = self.rotation_of(place.name, place.shape[1])
            attach_table(source, place, form, *self.read(place.name, place.shape), rotation)

    def tables_of(self, source: SourceModel) -> list[TablePlace]:
        """The vocabulary tables of a model that the checkpoint has in planes."""
        if not self._quantization.overrides.keys() - source.linears.keys():
            return []
        return [place for place in table_places(source) if self.holds(place.name)]


def _size(layer: QuantLinear) -> tuple[int, int]:
    return layer.out_features, layer.in_features
