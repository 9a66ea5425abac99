"""Options of the analyses that `python -m calib report` can add."""

from dataclasses import dataclass
from pathlib import Path

from dualbinary.cli.options import option

__all__ = ["AnalysisOptions"]


@dataclass(frozen=True)
class AnalysisOptions:
    """The analyses, and the text and model they need."""

    analyze: tuple[str, ...] = option(
        (),
        help="files of text: measure on them which tokens the models prefer, and the landscape of the loss",
        metavar="TEXT",
        nargs="+",
        old_names=("--analyse",),
        group="analyses",
    )
    model: Path | None = option(None, help="the full-precision model, for {analyze}", metavar="MODEL_DIR")
    before: Path | None = option(None, help="a checkpoint to compare, such as one without e2e", metavar="CHECKPOINT")
    layer: str | None = option(None, help="the layer of the landscape", shown="default: the middle one", metavar="NAME")
    points: int = option(9, help="the landscape is N x N points")
    windows: int = option(16, help="the first N windows")
    length: int = option(256, help="tokens in a window", metavar="T")
    device: str | None = option(None, help="cpu, cuda, mps", shown="default: the best there is", metavar="NAME")
    quiet: bool = option(False, help="no progress bar")
