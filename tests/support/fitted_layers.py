"""Loaded models with planes fitted without data: for the tests of distillation and of its filter."""

from pathlib import Path

from torch import Tensor

from calib.config import InitConfig
from calib.models.source import SourceModel
from calib.weight_init import WEIGHT_INITS, InitialWeight
from dualbinary.contract.weight import PlaneFormat

_STATES: dict[tuple[Path, int, PlaneFormat], dict[str, InitialWeight]] = {}


def initialized(
    method: str, weight: Tensor, hessian: Tensor | None, plane_format: PlaneFormat, name: str
) -> InitialWeight:
    """The result of one weight initialization, with more rounds than the default configuration asks for."""
    return WEIGHT_INITS[method].make(InitConfig(refits=4, polishes=2), 0)(weight, hessian, plane_format, name)


def fitted(directory: Path, plane_format: PlaneFormat) -> SourceModel:
    """The model at `directory`, every layer quantized; what was fitted once to the same file is not fitted again."""
    source = SourceModel(directory, plane_format)
    source.load(source.model)
    written = max(file.stat().st_mtime_ns for file in directory.glob("*.safetensors"))
    states = _STATES.setdefault((directory, written, plane_format), {})
    for layer in source.linears.values():
        if layer.name not in states:
            states[layer.name] = initialized("fit", layer.weight, None, plane_format, layer.name)
        state = states[layer.name]
        layer.set_quantized(state.planes.clone(), state.scales.half())
    return source
