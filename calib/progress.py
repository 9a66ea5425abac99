"""Progress of a run for people: a bar for each stage with tokens per second, time left and loss."""

import sys
import time
from typing import Any, Self

from tqdm import tqdm

__all__ = ["Bars"]

SECONDS_BETWEEN_LINES = 30.0  # where standard error is a file, a line now and then instead of a bar


class Bars:
    """A context manager whose `show` is the progress function of a run."""

    def __init__(self, *, shown: bool) -> None:
        self._shown, self._stage, self._said = shown, "", 0.0
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def show(self, stage: str, done: int, total: int, **figures: float) -> None:
        """Say that `done` of `total` tokens went through `stage`, with figures such as the loss."""
        if not self._shown:
            return
        if stage != self._stage:
            self._close()
            self._stage = stage
            # `initial`: tokens that an earlier process did must not count as this one's speed.
            self._bar = tqdm(
                total=total,
                initial=done,
                desc=stage,
                unit="tok",
                unit_scale=True,
                file=sys.stderr,
                dynamic_ncols=True,
                disable=not sys.stderr.isatty(),
            )
        assert self._bar is not None
        if figures:
            self._bar.set_postfix({name: f"{value:.4f}" for name, value in figures.items()}, refresh=False)
        self._bar.update(done - self._bar.n)
        if self._bar.disable and (done == total or time.monotonic() - self._said > SECONDS_BETWEEN_LINES):
            self._said = time.monotonic()
            text = "".join(f", {name} {value:.4f}" for name, value in figures.items())
            print(f"{stage}: {100 * done / max(total, 1):.1f} %{text}", file=sys.stderr, flush=True)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
