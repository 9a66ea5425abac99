"""The step of one token in which no tensor changes its place or its shape, as a CUDA graph needs it.

Between two steps only contents change: the token, its position, and the mask, which always has the length of the cache
and ones for the tokens that are there. GroupQueryAttention counts the ones, so it never reads what lies after them.
On CUDA, ONNX Runtime captures the first such step and replays it from then on; on the CPU it runs each one as usual.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dualbinary import InputError
from runtime_ext.providers import Provider

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["NO_CAPTURE", "StaticStep", "graph_options"]

NO_CAPTURE = -1  # the graph id of runs that are not to be captured
_graph_ids = itertools.count(1)


class StaticStep:
    """The step of one sequence. Its tensors live as long as the object, and the cache must live as long.

    `graph_id` is of this object alone: a session, which decoders may share, replays a graph by its id.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        provider: Provider,
        cache: Iterable[tuple[str, str, ort.OrtValue]],
        capacity: int,
    ) -> None:
        """Bind everything once. `cache` has past and present name and their common value, `capacity` tokens long.

        Raises InputError for logits of unknown length.
        """
        import onnxruntime as ort  # late: a command that prints its help does without

        self._session = session
        self.graph_id = next(_graph_ids)
        self._options = graph_options(self.graph_id)
        self._mask = np.zeros((1, capacity), np.int64)
        lengths = {"input_ids": 1, "attention_mask": capacity, "position_ids": 1}
        place = (provider.name, provider.device)
        names = {value.name for value in session.get_inputs()}
        # An array each: on the CPU a value is the memory of its array.
        self._inputs = {
            name: ort.OrtValue.ortvalue_from_numpy(np.zeros((1, length), np.int64), *place)
            for name, length in lengths.items()
            if name in names
        }
        logits = next(value for value in session.get_outputs() if value.name == "logits")
        if not isinstance(logits.shape[-1], int):
            raise InputError(f"logits: expected a vocabulary of known length, got shape {logits.shape}")
        dtype = np.float16 if logits.type == "tensor(float16)" else np.float32
        self._logits = ort.OrtValue.ortvalue_from_numpy(np.zeros((1, 1, logits.shape[-1]), dtype), *place)
        self._binding = session.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for past, present, value in cache:
            self._binding.bind_ortvalue_input(past, value)
            self._binding.bind_ortvalue_output(present, value)
        self._binding.bind_ortvalue_output("logits", self._logits)

    def run(self, token: int, length: int) -> npt.NDArray[np.float32]:
        """Logits [vocabulary] after `token`, which follows the `length` tokens in the cache."""
        self._mask[0, : length + 1] = 1
        self._mask[0, length + 1 :] = 0
        contents = {"input_ids": [[token]], "position_ids": [[length]], "attention_mask": self._mask}
        for name, value in self._inputs.items():
            value.update_inplace(np.asarray(contents[name], np.int64))
        self._session.run_with_iobinding(self._binding, self._options)
        return self._logits.numpy()[0, -1].astype(np.float32)


def graph_options(graph_id: int) -> ort.RunOptions:
    """Run options that name the captured graph. Providers without graphs ignore them."""
    import onnxruntime as ort  # as above

    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph_id))
    return options
