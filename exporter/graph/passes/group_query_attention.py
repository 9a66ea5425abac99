"""Attention, its rotary embedding and its mask become GroupQueryAttention, which works on a shared KV buffer.

For every Attention node whose past keys and values are graph inputs and whose mask `read_mask` understands:

1. Query and key come from RotaryEmbedding with tables gathered by position_ids: the rotation moves into the node.
2. Otherwise (no rotation, or one that the node does not offer): query and key are taken as they are.
3. The mask is causal: dropped; the node masks by sequence length.
4. The mask is a sliding window: dropped, local_window_size says it.
5. The mask carries ALiBi: dropped, slopes * (key - query) becomes attention_bias. Unlike the builder's bias it is
   computed from attention_mask, not from the length of the past, which is the buffer's capacity once past and present
   share it.

A node with any other mask stays as it is, and the model keeps growing caches.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from exporter.graph.attention_mask import AttentionMask, read_mask
from exporter.graph.values import NodeBuilder

__all__ = ["GroupQueryAttentionPass"]

_DOMAIN = "com.microsoft"
_HEAD_MULTIPLE = 8  # ONNX Runtime's kernel refuses head sizes that are no multiple of this
_ROTARY_HEAD_MULTIPLE = 16  # ONNX Runtime's rotation inside the node wants head sizes of this multiple
_ROTARY_TABLE_MULTIPLE = 8  # and tables whose rows are of this one
# Axes that [batch, keys] and [batch, queries] lack of [batch, heads, queries, keys].
_KEYS_AXES, _QUERIES_AXES = [1, 2], [1, 3]


class GroupQueryAttentionPass(ir.passes.InPlacePass):
    """See the module's docstring."""

    def __init__(self, window: int, window_hint: int) -> None:
        """`window` is a sliding window that the graph does not show, `window_hint` that of config.json; 0 for none."""
        super().__init__()
        self._window = window
        self._window_hint = window_hint
        self._lengths: tuple[ir.Value, ir.Value] | None = None
        self._biases: dict[bytes, ir.Value] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass."""
        masks: dict[tuple[ir.Value | None, int], AttentionMask | None] = {}
        modified = False
        for node in list(model.graph):
            if node.op_type != "Attention" or node.domain not in ("", "ai.onnx") or not _has_cache(node):
                continue
            mask = node.inputs[3] if len(node.inputs) > 3 else None
            causal = _int(node, "is_causal")
            key = (mask, causal)
            if key not in masks:
                masks[key] = read_mask(model, mask, bool(causal), self._window_hint)
            reading = masks[key]
            if reading is not None and self._convert(model, node, reading):
                modified = True
        if modified:
            model.graph.opset_imports.setdefault(_DOMAIN, 1)
        return ir.passes.PassResult(model, modified)

    def _convert(self, model: ir.Model, node: ir.Node, mask: AttentionMask) -> bool:
        query, key, value, past_key, past_value = (node.inputs[i] for i in (0, 1, 2, 4, 5))
        if query is None or key is None or value is None:
            return False
        if any(v.shape is None or len(v.shape) != 3 for v in (query, key, value)):
            return False
        assert past_key is not None and past_key.shape is not None and past_value is not None
        head_size = past_key.shape[3]
        if not isinstance(head_size, int) or head_size % _HEAD_MULTIPLE:
            return False
        if past_value.shape is None or past_value.shape[3] != head_size:
            return False
        lengths = self._sequence_lengths(model)
        attributes: dict[str, int | float] = {
            "num_heads": _int(node, "q_num_heads"),
            "kv_num_heads": _int(node, "kv_num_heads"),
            "scale": node.attributes["scale"].as_float(),
        }
        softcap = node.attributes.get("softcap")
        if softcap is not None and softcap.as_float():
            attributes["softcap"] = softcap.as_float()
        if mask.window or self._window:
            attributes["local_window_size"] = mask.window or self._window
        inputs: list[ir.Value | None] = [query, key, value, past_key, past_value, *lengths]
        rotation = _rotation(query, key, head_size)
        if rotation is not None:
            inputs[:2] = rotation.query, rotation.key
            inputs += [rotation.cos, rotation.sin]
            attributes |= {"do_rotary": 1, "rotary_interleaved": rotation.interleaved}
        if mask.slopes is not None:
            inputs += [None] * (10 - len(inputs)) + [self._alibi(model, mask.slopes, value.dtype or ir.DataType.FLOAT)]
        new = ir.node(
            "GroupQueryAttention",
            inputs,
            attributes,
            domain=_DOMAIN,
            num_outputs=len(node.outputs),
            name=f"{node.name}_gqa",
        )
        model.graph.insert_before(node, new)
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], [new], node.outputs, new.outputs)
        return True

    def _sequence_lengths(self, model: ir.Model) -> tuple[ir.Value, ir.Value]:
        """Last valid key of each sequence, int32 [batch], and the longest length, int32 scalar."""
        if self._lengths is None:
            build = NodeBuilder(model, model.graph[0], "attention_lengths")
            mask = _attention_mask(model)
            one, axis = build.constant("one", np.array(1, np.int64)), build.constant("axis", np.array([1], np.int64))
            last = build("Sub", build("ReduceSum", mask, axis, keepdims=0), one)
            longest = build("Gather", build("Shape", mask), one)
            self._lengths = (build.cast(last, ir.DataType.INT32), build.cast(longest, ir.DataType.INT32))
        return self._lengths

    def _alibi(self, model: ir.Model, slopes: np.ndarray, dtype: ir.DataType) -> ir.Value:
        """Slopes * (key - query), [batch, heads, queries, keys], in the type of the activations.

        Positions are counted by the ones of the mask, not by its length: steps of static shapes have a mask as long as
        the cache (docs/howto/run_on_cuda.md).
        """
        key = slopes.tobytes()
        if key not in self._biases:
            build = NodeBuilder(model, model.graph[0], f"alibi_{len(self._biases)}")
            mask, ids = _attention_mask(model), next(v for v in model.graph.inputs if v.name == "input_ids")
            zero, one = build.constant("zero", np.array(0, np.int64)), build.constant("one", np.array(1, np.int64))
            axis = build.constant("axis", np.array(1, np.int64))
            table = build.constant("slopes", slopes.reshape(-1, 1, 1))
            to_keys = build.constant("to_keys", np.array(_KEYS_AXES, np.int64))
            to_queries = build.constant("to_queries", np.array(_QUERIES_AXES, np.int64))
            keys = build("CumSum", mask, axis)  # [batch, keys], from 1
            last = build("ReduceSum", mask, build.constant("axes", np.array([1], np.int64)), keepdims=1)
            ones = build("Add", build("Mul", ids, zero), one)
            later = build("CumSum", ones, axis, exclusive=1, reverse=1)  # tokens after each query
            queries = build("Sub", last, later)
            # Relative to each query's own key, so that near keys have small biases, which float16 keeps apart. Keys to
            # come would have positive ones, but no query sees them.
            distance = build("Sub", build("Unsqueeze", keys, to_keys), build("Unsqueeze", queries, to_queries))
            bias = build("Mul", table, build.cast(build("Min", distance, zero), ir.DataType.FLOAT))
            self._biases[key] = build.cast(bias, dtype)
            self._biases[key].dtype = dtype
        return self._biases[key]


@dataclass(frozen=True)
class _Rotation:
    """A rotation that GroupQueryAttention can do itself."""

    query: ir.Value
    key: ir.Value
    cos: ir.Value
    sin: ir.Value
    interleaved: int


def _rotation(query: ir.Value, key: ir.Value, head_size: object) -> _Rotation | None:
    """Case 1: both values come from RotaryEmbedding with the same tables, gathered by position_ids."""
    nodes = (query.producer(), key.producer())
    if any(node is None or node.op_type != "RotaryEmbedding" or node.domain not in ("", "ai.onnx") for node in nodes):
        return None
    first, second = nodes
    assert first is not None and second is not None
    if first.inputs[1] is not second.inputs[1] or first.inputs[2] is not second.inputs[2] or len(first.inputs) != 3:
        return None
    tables = [_gathered_table(first.inputs[i]) for i in (1, 2)]
    if tables[0] is None or tables[1] is None or tables[0].shape is None:
        return None
    width = tables[0].shape[1]
    if not isinstance(head_size, int) or head_size % _ROTARY_HEAD_MULTIPLE:
        return None
    if not isinstance(width, int) or width % _ROTARY_TABLE_MULTIPLE or width > head_size // 2:
        return None
    assert first.inputs[0] is not None and second.inputs[0] is not None
    return _Rotation(first.inputs[0], second.inputs[0], tables[0], tables[1], _int(first, "interleaved"))


def _gathered_table(value: ir.Value | None) -> ir.Value | None:
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "Gather" or node.inputs[0] is None or node.inputs[1] is None:
        return None
    return node.inputs[0] if node.inputs[0].is_initializer() and node.inputs[1].name == "position_ids" else None


def _has_cache(node: ir.Node) -> bool:
    return len(node.inputs) > 5 and all(v is not None and v.is_graph_input() for v in node.inputs[4:6])


def _attention_mask(model: ir.Model) -> ir.Value:
    for value in model.graph.inputs:
        if value.name == "attention_mask":
            return value
    mask = ir.Value(
        name="attention_mask",
        type=ir.TensorType(ir.DataType.INT64),
        shape=ir.Shape(["batch", "past_seq_len + seq_len"]),
    )
    model.graph.inputs.insert(1, mask)
    return mask


def _int(node: ir.Node, name: str) -> int:
    attribute = node.attributes.get(name)
    return attribute.as_int() if attribute is not None else 0
