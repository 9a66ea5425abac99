"""What of a run can be known to be wrong before any work: the same for a run and for its plan."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from transformers import PreTrainedModel

from calib.budget.plan import check_budget
from calib.config import CalibConfig
from calib.data.collect import with_known_start
from calib.data.generate import check_writable
from calib.data.window_counts import windows_written
from calib.layers import QuantLinear
from calib.models.source import SourceModel, check_length
from calib.models.start import initial_weights_of
from calib.rotation import random_rotation
from calib.weight_init.base import InitialWeight

__all__ = ["CheckedRun", "check_windows", "checked_run"]


class CheckedRun(NamedTuple):
    """The model of a run, its configuration with a start token that is known, and weights where it starts from some."""

    source: SourceModel
    config: CalibConfig
    initial_weights: Callable[[QuantLinear], InitialWeight] | None


def checked_run(model_dir: Path, config: CalibConfig) -> CheckedRun:
    """What a run of `config` begins with. Raises InputError for all that it refuses before any work."""
    rotation_of = partial(random_rotation, limit=config.format.rotate, seed=config.seed)
    source = SourceModel(model_dir, config.format.layer_formats, config.skip, rotation_of)
    check_windows(source.model, config)
    config = with_known_start(config, source.directory, source.vocabulary)
    if config.format.has_budget:
        check_budget(source, config)
    initial_weights = None if config.start is None else initial_weights_of(Path(config.start), source)
    return CheckedRun(source, config, initial_weights)


def check_windows(model: PreTrainedModel, config: CalibConfig) -> None:
    """Raise InputError where windows are longer than `model` takes or writes; it needs no parameters."""
    if config.needs_tokens:
        check_length(model, config.data.length)
    if windows_written(config):
        check_writable(model, config.data.length)
