"""What the full-precision model says of every token, to be met by each of the others, and kept out of memory.

Logits of a text would be V numbers a token, so hidden states are kept, H numbers a token, in temporary files: 47 MB for
40 windows of 512 tokens and H = 576 in float32. They are mapped, so the system takes memory back when it wants to.
"""

import os
import tempfile
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

__all__ = ["HiddenStates"]


class HiddenStates:
    """Hidden states [T - 1, H] of each window of each text, on disk. `with` ends them."""

    def __init__(self, windows: Mapping[str, Tensor], width: int, dtype: torch.dtype) -> None:
        """Room for `windows` int [count, T] by the name of their text, H = `width`."""
        self._sizes = {name: (len(part), part.shape[1] - 1, width) for name, part in windows.items()}
        self._dtype = dtype
        self._directory = tempfile.TemporaryDirectory()
        self._parts: dict[str, Tensor] = {}
        for index, (name, size) in enumerate(self._sizes.items()):
            path = os.path.join(self._directory.name, f"{index}")
            count = size[0] * size[1] * size[2]
            self._parts[name] = torch.from_file(path, shared=True, size=count, dtype=dtype).view(size)

    def keep(self, text: str, window: int, hidden: Tensor) -> None:
        """Write those of one window."""
        self._parts[text][window].copy_(hidden)

    def read(self, text: str, window: int) -> Tensor:
        """Those of one window, as they were kept."""
        return self._parts[text][window]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._parts.clear()
        self._directory.cleanup()
