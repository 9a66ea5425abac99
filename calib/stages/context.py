"""The value that every stage of a run is given."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from calib.config import CalibConfig
from calib.models.source import SourceModel
from calib.parallel import ALONE, Team
from calib.state import WorkDirectory

__all__ = ["RunContext"]


@dataclass
class RunContext:
    """A model, what is asked of it, and where: matrix products in `dtype`, `progress(stage, done, total, **figures)`.

    Progress is told tokens, and figures such as the loss.
    """

    source: SourceModel
    config: CalibConfig
    work: WorkDirectory
    dtype: torch.dtype
    team: Team = ALONE
    progress: Callable[..., None] = lambda *_, **__: None
