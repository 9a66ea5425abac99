"""The meaning of an attention mask, found by running the part of the graph that computes it.

Builders spell causal masks, sliding windows and ALiBi in many ways, and matching each spelling by its nodes would
miss the next one. The mask of an Attention node depends on shapes and on attention_mask alone, so it is evaluated on
a small case, and the result shows which keys a query sees and what is added to their scores.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

__all__ = ["AttentionMask", "read_mask"]

_MASKED = -9000.0  # additive masks use -10000 or the type's lowest value; scores and biases never come near
_QUERIES = 2
_BEYOND_WINDOW = 6  # keys more than the window holds, so that its edge is visible
_TOLERANCE = 1e-3  # of float16 biases


@dataclass(frozen=True)
class AttentionMask:
    """Causal attention with an optional sliding window and an optional linear bias.

    window: keys that a query sees, itself included; 0 for all.
    slopes: ALiBi slope of each head, [heads], or None: slope * (key position - query position) is added to the score.
    """

    window: int
    slopes: npt.NDArray[np.float32] | None


def read_mask(model: ir.Model, mask: ir.Value | None, is_causal: bool, window_hint: int) -> AttentionMask | None:
    """Read the mask input of an Attention node; None where it is neither causal, windowed nor ALiBi.

    `window_hint` is the window that config.json states, or 0; the probe reaches past it.
    """
    if mask is None:
        return AttentionMask(0, None) if is_causal else None
    total = window_hint + _BEYOND_WINDOW + _QUERIES
    values = _evaluate(model, mask, total)
    if values is None:
        return None
    values = np.broadcast_to(values[0], (values.shape[1], _QUERIES, total))  # [heads or 1, queries, keys]
    positions = np.arange(total - _QUERIES, total)[:, None]
    distance = np.arange(total)[None, :] - positions  # key - query, 0 on the diagonal
    causal = distance <= 0
    visible = values if values.dtype == bool else values > _MASKED
    visible = visible & causal if is_causal else visible
    if not (visible == visible[:1]).all():
        return None
    window = 0 if (visible[0] == causal).all() else int(visible[0, 0].sum())
    seen = causal & (distance > -window) if window else causal
    if not (visible[0] == seen).all():
        return None
    if values.dtype == bool:
        return AttentionMask(window, None)
    own_key = total - _QUERIES  # of the first query; its neighbor is one step further away
    slopes = values[:, 0, own_key] - values[:, 0, own_key - 1]
    expected = slopes[:, None, None] * distance
    # Softmax ignores what is added to a whole row, so a bias counts relative to the query's own key.
    own = np.take_along_axis(values, np.broadcast_to(positions, (len(values), _QUERIES, 1)), axis=2)
    if not np.allclose((values - own)[:, seen], expected[:, seen], atol=_TOLERANCE):
        return None
    return AttentionMask(window, slopes.astype(np.float32) if np.abs(slopes).max() > _TOLERANCE else None)


def _evaluate(model: ir.Model, mask: ir.Value, total: int) -> np.ndarray | None:
    """The mask for one sequence of `total` tokens of which the last `_QUERIES` are new; None where it needs more."""
    shapes = {"input_ids": (1, _QUERIES), "attention_mask": (1, total), "position_ids": (1, _QUERIES)}
    needed = _inputs_of(mask)
    weights = [v for v in needed if v.is_initializer() and v.const_value is None]
    if weights:
        return None
    inputs = [value for value in model.graph.inputs if value in needed]
    graph = ir.convenience.extract(model.graph, inputs, [mask])
    probe = ir.Model(graph, ir_version=model.ir_version, functions=list(model.functions.values()))
    feeds: dict[str, np.ndarray] = {}
    for value in inputs:
        name = str(value.name)
        if name in shapes:
            feeds[name] = np.ones(shapes[name], np.int64)
            if name == "position_ids":
                feeds[name] = np.arange(total - _QUERIES, total)[None]
        elif name.startswith("past_key_values.") and value.shape is not None and value.dtype is not None:
            heads, width = value.shape[1], value.shape[3]
            if not isinstance(heads, int) or not isinstance(width, int):
                return None
            feeds[name] = np.zeros((1, heads, total - _QUERIES, width), value.dtype.numpy())
        else:
            return None
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(ir.to_proto(probe).SerializeToString(), options, providers=["CPUExecutionProvider"])
    result = np.asarray(session.run(None, feeds)[0])
    return result if result.dtype == bool else result.astype(np.float32)


def _inputs_of(value: ir.Value) -> set[ir.Value]:
    """Graph inputs and initializers that `value` depends on."""
    found: set[ir.Value] = set()
    stack, seen = [value], set()
    while stack:
        current = stack.pop()
        if current in seen:
            continue
        seen.add(current)
        node = current.producer()
        if node is None:
            found.add(current)
        else:
            stack.extend(v for v in node.inputs if v is not None)
    return found
