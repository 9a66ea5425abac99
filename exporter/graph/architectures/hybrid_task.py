"""The graph of a decoder some of whose layers carry states in place of keys and values.

Inputs and outputs have the names of onnxruntime-genai (dualbinary/files/cache_names.py). States of convolutions have
the type of the activations, recurrent ones are float32: what is lost in one step stays lost in all later ones.
"""

from typing import Any

import onnx_ir as ir
from mobius import ModelPackage
from mobius.tasks import ModelTask
from mobius.tasks._base import _make_graph, _make_model

from dualbinary.files.cache_names import PAST, PAST_STATE, present_name
from exporter.graph.architectures.state_layers import StateLayer

__all__ = ["HybridTask"]

_RECURRENT = "recurrent"
_BATCH, _LENGTH, _PAST_LENGTH = "batch", "sequence_len", "past_sequence_len"
_PRESENT_LENGTH = f"{_PAST_LENGTH} + {_LENGTH}"
_INPUTS = {"input_ids": _LENGTH, "attention_mask": "past_seq_len + seq_len", "position_ids": _LENGTH}

_Input = tuple[str, ir.DataType, list[int | str | None]]  # name, type and shape


class HybridTask(ModelTask):
    """Text generation with keys and values in some layers, and states in the `StateLayer`s of the others."""

    def build(self, module: Any, config: Any) -> ModelPackage:
        """The builder's package with one model."""
        graph, builder = _make_graph()
        inputs = {
            name: builder.input(name, dtype=ir.DataType.INT64, shape=[_BATCH, size]) for name, size in _INPUTS.items()
        }
        past = [
            tuple(builder.input(name, dtype=dtype, shape=shape) for name, dtype, shape in carried)
            for carried in _carried(module, config)
        ]
        logits, present = module(builder.op, **inputs, past_key_values=past)
        builder.add_output(logits, "logits")
        for before, after in zip(past, present, strict=True):
            for old, new in zip(before, after, strict=True):
                name = present_name(str(old.name))
                assert name is not None and old.shape is not None
                new.dtype = old.dtype
                new.shape = ir.Shape([_PRESENT_LENGTH if size == _PAST_LENGTH else size for size in old.shape])
                builder.add_output(new, name)
        return ModelPackage({"model": _make_model(graph)}, config=config)


def _carried(module: Any, config: Any) -> list[list[_Input]]:
    """The inputs of each layer for what it carries."""
    found: list[list[_Input]] = []
    for number, layer in enumerate(module.model.layers):
        inputs: list[_Input] = []
        if isinstance(layer.self_attn, StateLayer):
            for kind, shape in layer.self_attn.states.items():
                dtype = ir.DataType.FLOAT if kind == _RECURRENT else config.dtype
                inputs.append((f"{PAST_STATE}{number}.{kind}", dtype, [_BATCH, *shape]))
        else:
            shape = [_BATCH, config.num_key_value_heads, _PAST_LENGTH, config.head_dim]
            inputs = [(f"{PAST}{number}.{kind}", config.dtype, shape) for kind in ("key", "value")]
        found.append(inputs)
    return found
