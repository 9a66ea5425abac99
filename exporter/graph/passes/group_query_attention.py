"""Attention, its rotary embedding and its mask become GroupQueryAttention, which works on a shared KV buffer.

For every Attention node that reads a cache, which is in the graph's inputs, and whose mask `read_mask` understands:

1. Query and key come from RotaryEmbedding with tables gathered by position_ids: the rotation moves into the node.
2. Otherwise (no rotation, or one that the node does not offer): query and key are taken as they are.
3. The mask is causal: dropped; the node masks by sequence length.
4. The mask is a sliding window: dropped, local_window_size says it.
5. The mask carries ALiBi: dropped, slopes * (key - query) becomes attention_bias. Unlike the builder's bias it is
   computed from attention_mask, not from the length of the past, which is the buffer's capacity once past and present
   share it.
6. A layer without keys of its own reads those of another one: the node gets no new ones, and what that other node
   returns as its past.

The node masks by the length of each row, so the tokens of a row are moved together before the first layer
(exporter/graph/token_rows.py). A model with an Attention node that cannot become one stays as it is, with growing
caches.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from exporter.graph.attention_mask import AttentionMask, read_mask
from exporter.graph.token_rows import TokenRows, read_token_rows
from exporter.graph.values import NodeBuilder, copy_type

__all__ = ["GroupQueryAttentionPass"]

_DOMAIN = "com.microsoft"
_HEAD_MULTIPLE = 8  # ONNX Runtime's kernel refuses head sizes that are no multiple of this
_ROTARY_HEAD_MULTIPLE = 16  # ONNX Runtime's rotation inside the node wants head sizes of this multiple
_ROTARY_TABLE_MULTIPLE = 8  # and tables whose rows are of this one
_BIAS_INPUT, _NEW_TOKENS_INPUT = 10, 16  # attention_bias and query_seqlens
_QUERIES_AXES = [1, 3]  # that [batch, queries] lacks of [batch, heads, queries, keys]


class GroupQueryAttentionPass(ir.passes.InPlacePass):
    """See the module's docstring.

    Attributes:
        rows: the tokens of each row, for the passes that follow; None where the model keeps its Attention nodes.
    """

    def __init__(self, window: int, window_hint: int, *, ragged_steps: bool = False) -> None:
        """`window` is a sliding window that the graph does not show, `window_hint` that of config.json; 0 for none.

        `ragged_steps` gives the node the number of tokens of each row, by which the rows of a batch take several new
        tokens after cached ones. The input is new in ONNX Runtime 1.32, and older versions do not load the model.
        """
        super().__init__()
        self._ragged_steps = ragged_steps
        self._window = window
        self._window_hint = window_hint
        self.rows: TokenRows | None = None

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass."""
        masks: dict[tuple[ir.Value | None, bool], AttentionMask | None] = {}
        found: list[tuple[ir.Node, AttentionMask]] = []
        for node in model.graph:
            if node.op_type != "Attention" or node.domain not in ("", "ai.onnx") or not _reads_cache(node):
                continue
            key = node.inputs[3], bool(_int(node, "is_causal"))
            if key not in masks:
                masks[key] = read_mask(model, *key, self._window_hint)
            mask = masks[key]
            if mask is None or not _suits(node):
                return ir.passes.PassResult(model, modified=False)
            found.append((node, mask))
        if found:
            self._convert_all(model, found)
        return ir.passes.PassResult(model, modified=bool(found))

    def _convert_all(self, model: ir.Model, found: list[tuple[ir.Node, AttentionMask]]) -> None:
        first, past = model.graph[0], found[0][0].inputs[4]
        assert past is not None
        users = {v: tuple(v.uses()) for v in model.graph.inputs if v.name in ("input_ids", "position_ids")}
        self.rows = read_token_rows(model, first, past)
        inputs = _CommonInputs(model, first, self.rows, self._ragged_steps)
        for node, mask in found:
            self._convert(model, node, mask, inputs)
        build = NodeBuilder(model, first, "moved_together")
        for value, uses in users.items():
            moved = build("ScatterElements", value, self.rows.place, value, axis=1)
            copy_type(value, moved)
            for node, index in uses:
                node.replace_input_with(index, moved)
        model.graph.opset_imports.setdefault(_DOMAIN, 1)

    def _convert(self, model: ir.Model, node: ir.Node, mask: AttentionMask, common: "_CommonInputs") -> None:
        query, key, value = node.inputs[:3]
        past_key, past_value = _past(node)
        assert query is not None and key is not None and value is not None and past_key is not None
        own_keys = _has_cache(node)
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
        if not own_keys:
            key = value = common.no_keys(int(key.shape[2]), value.dtype or ir.DataType.FLOAT)  # type: ignore[arg-type]
        inputs: list[ir.Value | None] = [query, key, value, past_key, past_value, common.last_keys, common.longest]
        rotation = _rotation((query, key) if own_keys else (query,), past_key.shape and past_key.shape[3])
        if rotation is not None:
            inputs[: len(rotation.values)] = rotation.values
            inputs += [rotation.cos, rotation.sin]
            attributes |= {"do_rotary": 1, "rotary_interleaved": rotation.interleaved}
        if mask.slopes is not None:
            bias = common.alibi(mask.slopes, value.dtype or ir.DataType.FLOAT)
            inputs += [None] * (_BIAS_INPUT - len(inputs)) + [bias]
        if common.new_tokens is not None:
            inputs += [None] * (_NEW_TOKENS_INPUT - len(inputs)) + [common.new_tokens]
        new = ir.node(
            "GroupQueryAttention",
            inputs,
            attributes,
            domain=_DOMAIN,
            num_outputs=len(node.outputs) if own_keys else 1,
            name=f"{node.name}_gqa",
        )
        model.graph.insert_before(node, new)
        old = node.outputs[: len(new.outputs)]
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], [new], old, new.outputs)


class _CommonInputs:
    """Inputs that the nodes of all layers share, computed before the node `first`.

    Attributes:
        last_keys: index of each row's last key, int32 [batch].
        longest: keys of the longest row, int32 [1].
        new_tokens: tokens of each row without padding, int32 [batch]; None where all columns count as tokens.
    """

    def __init__(self, model: ir.Model, first: ir.Node, rows: TokenRows, ragged_steps: bool) -> None:
        self._model, self._first, self._rows = model, first, rows
        self._biases: dict[bytes, ir.Value] = {}
        self._empty: dict[int, ir.Value] = {}
        self.new_tokens: ir.Value | None = None
        build = NodeBuilder(model, first, "attention_lengths")
        one, lengths = build.constant("one", np.array([1], np.int64)), rows.lengths
        if ragged_steps:
            # The node wants a token in every row. One that is padding is overwritten by the next step.
            tokens = build("Max", build("Squeeze", rows.count, one), one)
            lengths = build("Sub", lengths, build("Sub", build("ReduceSum", rows.ones, one, keepdims=0), tokens))
            self.new_tokens = build("Cast", tokens, to=int(ir.DataType.INT32))
        self.last_keys = build("Cast", build("Sub", lengths, one), to=int(ir.DataType.INT32))
        self.longest = build("Cast", rows.total, to=int(ir.DataType.INT32))

    def no_keys(self, width: int, dtype: ir.DataType) -> ir.Value:
        """Keys of no token, [batch, 0, width]."""
        if width not in self._empty:
            build = NodeBuilder(self._model, self._first, f"no_keys_{width}")
            sizes = build.constant("sizes", np.array([0, width], np.int64))
            batch = build("Shape", self._rows.ones, start=0, end=1)
            none = build.constant("none", np.zeros((1, 0, width), dtype.numpy()))
            self._empty[width] = build("Expand", none, build("Concat", batch, sizes, axis=0))
            self._empty[width].dtype = dtype
        return self._empty[width]

    def alibi(self, slopes: np.ndarray, dtype: ir.DataType) -> ir.Value:
        """Slopes * (key - query), [batch, heads, queries, keys], in the type of the activations."""
        key = slopes.tobytes()
        if key not in self._biases:
            build = NodeBuilder(self._model, self._first, f"alibi_{len(self._biases)}")
            zero, axis = build.constant("zero", np.array(0, np.int64)), build.constant("axis", np.array(1, np.int64))
            one = build.constant("one", np.array([1], np.int64))
            table = build.constant("slopes", slopes.reshape(-1, 1, 1))
            keys = build("CumSum", build("Expand", one, self._rows.total), zero)  # [keys], from 1
            later = build("CumSum", self._rows.ones, axis, exclusive=1, reverse=1)  # columns after each query
            queries = build("Sub", build("Unsqueeze", self._rows.lengths, one), later)
            # Relative to each query's own key, so that near keys have small biases, which float16 keeps apart. Keys to
            # come would have positive ones, but no query sees them.
            to_queries = build.constant("to_queries", np.array(_QUERIES_AXES, np.int64))
            distance = build("Sub", keys, build("Unsqueeze", queries, to_queries))
            bias = build("Mul", table, build.cast(build("Min", distance, zero), ir.DataType.FLOAT))
            self._biases[key] = build.cast(bias, dtype)
            self._biases[key].dtype = dtype
        return self._biases[key]


def _suits(node: ir.Node) -> bool:
    """Tell if GroupQueryAttention takes the shapes of an Attention node."""
    if any(v is None or v.shape is None or len(v.shape) != 3 for v in node.inputs[:3]):
        return False
    past_key, past_value = _past(node)
    assert past_key is not None and past_key.shape is not None and past_value is not None
    head_size = past_key.shape[3]
    if not isinstance(head_size, int) or head_size % _HEAD_MULTIPLE:
        return False
    return past_value.shape is not None and past_value.shape[3] == head_size


@dataclass(frozen=True)
class _Rotation:
    """A rotation that GroupQueryAttention can do itself, of `values`: query and key, or query alone."""

    values: tuple[ir.Value, ...]
    cos: ir.Value
    sin: ir.Value
    interleaved: int


def _rotation(values: tuple[ir.Value, ...], head_size: object) -> _Rotation | None:
    """Case 1: all values come from RotaryEmbedding with the same tables, gathered by position_ids."""
    nodes = [node for value in values if (node := value.producer()) is not None and node.op_type == "RotaryEmbedding"]
    if len(nodes) < len(values) or any(node.domain not in ("", "ai.onnx") or len(node.inputs) != 3 for node in nodes):
        return None
    first, last = nodes[0], nodes[-1]
    if first.inputs[1] is not last.inputs[1] or first.inputs[2] is not last.inputs[2]:
        return None
    tables = [_gathered_table(first.inputs[i]) for i in (1, 2)]
    if tables[0] is None or tables[1] is None or tables[0].shape is None:
        return None
    width = tables[0].shape[1]
    if not isinstance(head_size, int) or head_size % _ROTARY_HEAD_MULTIPLE:
        return None
    if not isinstance(width, int) or width % _ROTARY_TABLE_MULTIPLE or width > head_size // 2:
        return None
    unrotated = tuple(node.inputs[0] for node in nodes if node.inputs[0] is not None)
    return _Rotation(unrotated, tables[0], tables[1], _int(first, "interleaved"))


def _gathered_table(value: ir.Value | None) -> ir.Value | None:
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "Gather" or node.inputs[0] is None or node.inputs[1] is None:
        return None
    return node.inputs[0] if node.inputs[0].is_initializer() and node.inputs[1].name == "position_ids" else None


def _has_cache(node: ir.Node) -> bool:
    return len(node.inputs) > 5 and all(v is not None and v.is_graph_input() for v in node.inputs[4:6])


def _past(node: ir.Node) -> tuple[ir.Value | None, ir.Value | None]:
    """Past keys and values of an Attention node, or what it reads instead of new ones."""
    key, value = node.inputs[4:6] if _has_cache(node) else map(_untransposed, node.inputs[1:3])
    return key, value


def _reads_cache(node: ir.Node) -> bool:
    """Tell if an Attention node has a cache, or reads that of another one."""
    sources = [value.producer() if value is not None else None for value in _past(node)]
    first, second = sources
    return _has_cache(node) or (first is not None and first is second and _has_cache(first))


def _untransposed(value: ir.Value | None) -> ir.Value | None:
    """The value [batch, heads, keys, size] that a node reads as [batch, keys, heads * size]; None for other values."""
    for kind in ("Reshape", "Transpose"):
        node = value.producer() if value is not None else None
        value = node.inputs[0] if node is not None and node.op_type == kind else None
    return value


def _int(node: ir.Node, name: str) -> int:
    attribute = node.attributes.get(name)
    return attribute.as_int() if attribute is not None else 0
