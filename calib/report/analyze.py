"""Run the analyses of a checkpoint: text to windows, preference of words, and the landscape of one layer."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from calib.data.collect import first_windows
from calib.models.source import SourceModel
from calib.models.stored_checkpoint import StoredCheckpoint
from calib.report.analyses import AFTER, ANALYSES_VERSION, BEFORE, write_analyses
from calib.report.landscape import landscape
from calib.report.options import AnalysisOptions
from calib.report.preference import preference
from dualbinary import InputError
from dualbinary.cli.version import package_version
from dualbinary.files.documents import expand

__all__ = ["analyze"]

LANDSCAPE_WINDOWS = 2  # of the text; each of the landscape's points, 243 by default, runs the model over them


def analyze(
    directory: Path, options: AnalysisOptions, device: str, progress: Callable[[str, int, int], None]
) -> dict[str, Any]:
    """Analyze the checkpoint in `directory` against its full-precision model, and keep the result there.

    The landscape is that of one layer, by default the middle one, over the first two windows. `progress(part, done,
    total)` is told tokens. Raises InputError, before the model is loaded, for models, text and names that do not fit.
    """
    assert options.model is not None
    checkpoints = {BEFORE: StoredCheckpoint(options.before)} if options.before else {}
    checkpoints[AFTER] = StoredCheckpoint(directory)
    source = SourceModel(options.model, checkpoints[AFTER].format)
    names = list(source.linears)
    chosen = options.layer or names[len(names) // 2]
    if chosen not in names:
        raise InputError(f"--layer {chosen}: the model has no such layer; expected a name such as {names[0]}")
    if options.points < 3 or options.points % 2 == 0:
        raise InputError(
            f"--points {options.points}: expected an odd number from 3, so that the layer itself is in the middle"
        )
    vocabulary = source.vocabulary
    tokens = first_windows(options.model, options.analyze, options.windows, options.length, vocabulary)
    files = [file.name for file in expand(options.analyze)]
    value = {
        "version": ANALYSES_VERSION,
        "dualbinary": package_version(),
        "text": {"files": files, "windows": options.windows, "length": options.length},
        "preference": preference(source, checkpoints, tokens, device=device, progress=partial(progress, "preference")),
        "landscape": landscape(
            source,
            chosen,
            tokens[:LANDSCAPE_WINDOWS],
            points=options.points,
            device=device,
            progress=partial(progress, "landscape"),
        ),
    }
    write_analyses(directory, value)
    return value
