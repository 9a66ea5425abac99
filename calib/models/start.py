"""Planes and scales of a checkpoint as the ones to begin with: `--start`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from calib.layers import QuantLinear
from calib.models.source import SourceModel
from calib.models.stored_checkpoint import StoredCheckpoint
from calib.scale_parameters import round_parameters, to_parameters, to_scales
from calib.weight_init.base import InitialWeight
from calib.weight_init.stored import from_planes
from dualbinary import InputError

__all__ = ["initial_weights_of"]


def initial_weights_of(directory: Path, source: SourceModel) -> Callable[[QuantLinear], InitialWeight]:
    """The initial weights of the layers of `source`, which get the rotations of the checkpoint in `directory`.

    Raises InputError where that is none, or its formats and rotations are not those of `source`.
    """
    checkpoint = StoredCheckpoint(directory)
    for name, layer in source.linears.items():
        # Stored scales of any type become those of the format.
        wanted = replace(source.formats.of(name), scale_dtype=checkpoint.format_of(name).scale_dtype)
        if checkpoint.format_of(name) != wanted:
            of_module = f" of {name}" if source.formats.overrides or checkpoint.mixed else ""
            raise InputError(
                f"{directory}: holds {checkpoint.format_of(name)}{of_module}, expected {wanted}; set --method, "
                "--planes, --group-size, --offset, --levels, --zero and --override as in the checkpoint, or leave all "
                "of them out"
            )
        _rotate_as(checkpoint, layer)
    known = {layer.in_features: layer.rotation for layer in source.linears.values() if layer.rotation is not None}
    source.rotation_of = known.get  # of tables that are made anew

    def initial_weight(layer: QuantLinear) -> InitialWeight:
        planes, scales = checkpoint.read(layer.name, (layer.out_features, layer.in_features))
        scales = to_scales(layer.format, round_parameters(layer.format, to_parameters(layer.format, scales)))
        return from_planes(layer.full_weight, planes, scales, layer.format)

    return initial_weight


def _rotate_as(checkpoint: StoredCheckpoint, layer: QuantLinear) -> None:
    """Give `layer` the rotation of its stored weight. Raises InputError where --rotate asks for another one.

    A checkpoint of another tool may rotate some layers alone; the others stay as they are.
    """
    stored = checkpoint.rotation_of(layer.name, layer.in_features)
    wanted, found = (None if one is None else one.stored.block_size for one in (layer.rotation, stored))
    if wanted != found and (found is not None or not checkpoint.rotated):
        words = ["no rotation" if one is None else f"a rotation in blocks of {one}" for one in (found, wanted)]
        raise InputError(
            f"{checkpoint.directory}: holds {layer.name} with {words[0]}, expected {words[1]}; set --rotate as in the "
            "checkpoint, or leave out all that says a format"
        )
    layer.rotation = stored
