"""Loaded models with planes fitted without data: for the tests of distillation and of its filter."""

from pathlib import Path

import torch

from calib.layers import Format
from calib.models.source import SourceModel
from calib.weight_init import METHODS


def fitted(directory: Path, format_: Format) -> SourceModel:
    """The model at `directory`, every layer quantized."""
    source = SourceModel(directory, format_)
    source.load(source.model)
    for layer in source.linears.values():
        state = METHODS["fit"].start(layer.weight, torch.empty(0, 0), format_, layer.name)
        layer.set_scales(state.scales.half())
        layer.set_planes(state.planes)
        layer.quantized = True
    return source
