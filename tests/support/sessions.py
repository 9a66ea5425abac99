"""Sessions on the CPU provider: of one node for tests of the op, of whole models for those of exports and decoder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

import runtime_ext
from runtime_ext.cache import cache_tensors


def open_session(model: onnx.ModelProto | str, threads: int = 1, *, library: bool = True) -> ort.InferenceSession:
    """Open a model, or the file at a path, with the library registered unless told otherwise."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    if library:
        runtime_ext.register(options)
    source = model if isinstance(model, str) else model.SerializeToString()
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run(session: ort.InferenceSession, x: np.ndarray) -> np.ndarray:
    """Compute Y of one X."""
    (y,) = session.run(None, {"X": x})
    return np.asarray(y)


def logits(model: Path | str, ids: npt.NDArray[np.int64], library: bool = True) -> np.ndarray:
    """Compute the logits [1, T, V] of ids [1, T] from an empty cache, with the library or by the fallback function."""
    options = ort.SessionOptions()
    if library:
        runtime_ext.register(options)
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return outputs(session, ids, np.ones_like(ids))[0]


def outputs(
    session: ort.InferenceSession,
    ids: npt.NDArray[np.int64],
    mask: npt.NDArray[np.int64],
    names: Sequence[str] = ("logits",),
    past: dict[str, np.ndarray] | None = None,
) -> list[np.ndarray]:
    """The outputs `names` after the new tokens `ids` [B, S], of which `mask` [B, T] says what is padding.

    Positions count the tokens of a row, as transformers' generate() counts them. `past` is None for an empty cache.
    """
    if past is None:
        past = {tensor.past: np.repeat(tensor.zeros(0), len(ids), axis=0) for tensor in cache_tensors(session)}
    feeds: dict[str, np.ndarray] = {"input_ids": ids, "attention_mask": mask, **past}
    if "position_ids" in {value.name for value in session.get_inputs()}:
        feeds["position_ids"] = np.maximum(mask.cumsum(1) - 1, 0)[:, -ids.shape[1] :]
    return [np.asarray(value) for value in session.run(list(names), feeds)]


def step(
    session: ort.InferenceSession,
    ids: npt.NDArray[np.int64],
    mask: npt.NDArray[np.int64],
    past: dict[str, np.ndarray] | None = None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logits and cache after the new tokens: see `outputs`. `past` is what the last step gave."""
    carried = cache_tensors(session)
    found, *presents = outputs(session, ids, mask, ["logits", *(tensor.present for tensor in carried)], past)
    return found, {tensor.past: value for tensor, value in zip(carried, presents, strict=True)}
