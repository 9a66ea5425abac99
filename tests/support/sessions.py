"""Sessions of the op on the CPU provider: for the tests of the op, of stored layouts and of packed copies."""

import numpy as np
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
