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
