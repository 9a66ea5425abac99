"""What of a run can be known to be wrong before any work: the same for a run and for its plan."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from transformers import PreTrainedModel

from calib.budget.plan import check_budget
from calib.budget.units import check_measured
from calib.config import CalibConfig
from calib.data.collect import check_sources, generated_count, with_known_start
from calib.data.generate import check_writable
from calib.data.window_counts import held_out_windows, windows_written
from calib.layers import QuantLinear
from calib.models.source import SourceModel, check_length
from calib.models.start import initial_weights_of
from calib.models.stored_checkpoint import StoredCheckpoint
from calib.models.targets import Targets
from calib.parallel import ALONE, Team
from calib.rotation import random_rotation
from calib.weight_init.base import InitialWeight
from dualbinary import InputError
from dualbinary.files.json_objects import read_json_object

__all__ = ["CheckedRun", "check_lengths", "check_windows", "checked_run"]


class CheckedRun(NamedTuple):
    """What a run begins with.

    source: the model, of whose weights nothing is read yet.
    config: the configuration, with a start token that is known.
    initial_weights: those of a layer, where the run starts from a checkpoint.
    target: the weight that a layer approaches, where that is another one than its own.
    """

    source: SourceModel
    config: CalibConfig
    initial_weights: Callable[[QuantLinear], InitialWeight] | None
    target: Callable[[QuantLinear], Tensor] | None


def checked_run(model_dir: Path, config: CalibConfig, team: Team = ALONE) -> CheckedRun:
    """What a run of `config` by `team` begins with. Raises InputError for all that it refuses before any work."""
    check_windows(config)
    rotation_of = partial(random_rotation, limit=config.format.rotate, seed=config.seed)
    source = SourceModel(model_dir, config.format.layer_formats, config.skip, rotation_of)
    check_lengths(source.model, config)
    config = with_known_start(config, source.directory, source.vocabulary)
    if config.format.has_budget:
        check_budget(source, config)
    if config.format.measured is not None:
        check_measured(source, config)
    if config.data.scores is not None:
        read_json_object(Path(config.data.scores))
    initial_weights = None if config.start is None else initial_weights_of(Path(config.start), source)
    target = None if config.targets is None else Targets(Path(config.targets), source).of
    _check_team(source, config, team)
    return CheckedRun(source, config, initial_weights, target)


def check_windows(config: CalibConfig) -> None:
    """Raise InputError where there is nothing to learn from, or fewer generated sequences than it takes."""
    if not config.needs_tokens:
        return
    data = config.data
    check_sources(data)
    if data.text:  # of which nobody knows how much there is
        return
    count, held_out = generated_count(data), held_out_windows(config)
    option = "--generated" if data.generated is not None else "--generate"
    least = max(held_out + 1, data.keep + config.e2e.held_out if data.keep else 0)
    if count < least:
        kept = f" and {data.keep} to keep" if data.keep else ""
        raise InputError(
            f"{option}: expected {least} sequences or more, with {held_out} held out{kept}, got {count}; "
            f"{'give' if data.generated is not None else 'write'} more"
        )


def check_lengths(model: PreTrainedModel, config: CalibConfig) -> None:
    """Raise InputError where windows are longer than `model` takes or writes; it needs no parameters."""
    if config.needs_tokens:
        check_length(model, config.data.length)
    if windows_written(config):
        check_writable(model, config.data.length)


def _check_team(source: SourceModel, config: CalibConfig, team: Team) -> None:
    """Raise InputError where several processes cannot do what is asked of them."""
    batch, trains = config.e2e.batch, "e2e" in config.stages
    if trains and batch % team.size:
        raise InputError(
            f"--e2e-batch {batch}: {team.size} processes share a batch; expected a multiple of {team.size}"
        )
    if not team.sharded:
        return
    if trains and config.e2e.latent_rate:
        raise InputError("--e2e-latent-rate: latents cannot be trained with FSDP; leave out --use_fsdp")
    stored = config.start is not None and StoredCheckpoint(Path(config.start)).tables_of(source)
    if config.format.has_tables or stored:  # gradients of what FSDP leaves whole are not summed
        asked = "--size" if config.format.size is not None else "--embedding-bits"
        raise InputError(f"{asked}: tables cannot be trained with FSDP; leave out --use_fsdp")
