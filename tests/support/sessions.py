"""Sessions on the CPU provider: of one node for tests of the op, of whole models for those of exports and decoder."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

import runtime_ext


def open_session(model: onnx.ModelProto | str, threads: int = 1) -> ort.InferenceSession:
    """Open a model, or the file at a path, with the library registered."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
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
    feeds: dict[str, np.ndarray] = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    for value in session.get_inputs():
        if value.name == "position_ids":
            feeds[value.name] = np.arange(ids.shape[1])[None]
        elif value.name.startswith("past_key_values."):
            dtype = np.float16 if value.type == "tensor(float16)" else np.float32
            feeds[value.name] = np.zeros((1, value.shape[1], 0, value.shape[3]), dtype)
    return np.asarray(session.run(["logits"], feeds)[0])


def step(
    session: ort.InferenceSession,
    ids: npt.NDArray[np.int64],
    mask: npt.NDArray[np.int64],
    past: dict[str, np.ndarray] | None = None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logits and cache after the new tokens `ids` [B, S], of which `mask` [B, T] says what is padding.

    Positions count the tokens of a row, as transformers' generate() counts them. `past` is what the last step gave.
    """
    inputs = {value.name: value for value in session.get_inputs()}
    caches = [name for name in inputs if name.startswith("past_key_values.")]
    if past is None:
        dtype = np.float16 if inputs[caches[0]].type == "tensor(float16)" else np.float32
        past = {n: np.zeros((len(ids), inputs[n].shape[1], 0, inputs[n].shape[3]), dtype) for n in caches}
    feeds: dict[str, np.ndarray] = {"input_ids": ids, "attention_mask": mask, **past}
    if "position_ids" in inputs:
        feeds["position_ids"] = np.maximum(mask.cumsum(1) - 1, 0)[:, -ids.shape[1] :]
    names = [value.name for value in session.get_outputs()]
    outputs = dict(zip(names, map(np.asarray, session.run(None, feeds)), strict=True))
    return outputs["logits"], {name: outputs[name.replace("past_key_values", "present")] for name in caches}
