"""Run the analyses of a checkpoint: text to windows, preference of words, and the landscape of one layer."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from calib.data.collect import first_windows
from calib.data.documents import expand
from calib.models.source import SourceModel
from calib.report.analyses import AFTER, ANALYSES_VERSION, BEFORE, write_analyses
from calib.report.landscape import POINTS, landscape
from calib.report.preference import preference
from calib.stored_checkpoint import StoredCheckpoint
from dualbinary import InputError
from dualbinary.cli.version import package_version

__all__ = ["Text", "analyze"]

LANDSCAPE_WINDOWS = 2  # of the text; each of the landscape's points, 243 by default, runs the model over them


@dataclass(frozen=True)
class Text:
    """Files or patterns, and the windows of `length` tokens that are taken from their beginning."""

    files: tuple[str, ...]
    windows: int = 16
    length: int = 256


def analyze(
    directory: Path,
    model_dir: Path,
    text: Text,
    *,
    before: Path | None = None,
    layer: str | None = None,
    points: int = POINTS,
    device: str = "cpu",
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Analyze the checkpoint in `directory` against its full-precision model `model_dir`, and keep the result there.

    `before` is a checkpoint to hold beside, such as one without distillation. The landscape is that of `layer`, by
    default the middle one, over the first two windows. `progress(part, done, total)` is told tokens.
    Raises InputError, before the model is loaded, for models, text and names that do not fit.
    """
    checkpoints = {BEFORE: StoredCheckpoint(before)} if before else {}
    checkpoints[AFTER] = StoredCheckpoint(directory)
    plane_format = replace(checkpoints[AFTER].format, levels="free")
    for checkpoint in checkpoints.values():
        if replace(checkpoint.format, levels="free") != plane_format:
            raise InputError(
                f"{checkpoint.directory}: holds {checkpoint.format}, expected {plane_format} as in {directory}"
            )
    source = SourceModel(model_dir, plane_format)
    names = list(source.linears)
    chosen = layer or names[len(names) // 2]
    if chosen not in names:
        raise InputError(f"--layer {chosen}: the model has no such layer; expected a name such as {names[0]}")
    if points < 3 or points % 2 == 0:
        raise InputError(f"--points {points}: expected an odd number from 3, so that the layer itself is in the middle")
    vocabulary = source.model.config.get_text_config().vocab_size
    tokens = first_windows(model_dir, text.files, text.windows, text.length, vocabulary)
    value = {
        "version": ANALYSES_VERSION,
        "dualbinary": package_version(),
        "text": {"files": [file.name for file in expand(text.files)], "windows": text.windows, "length": text.length},
        "preference": preference(source, checkpoints, tokens, device=device, progress=partial(progress, "preference")),
        "landscape": landscape(
            source,
            chosen,
            tokens[:LANDSCAPE_WINDOWS],
            points=points,
            device=device,
            progress=partial(progress, "landscape"),
        ),
    }
    write_analyses(directory, value)
    return value
