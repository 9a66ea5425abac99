"""Exported models with blocks in NumPy: onnx's evaluator, and the reference of the contract for nodes of ours."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from dualbinary import ATTENTION, MLP, OP
from dualbinary.contract.blocks import AttentionForm, attention, mlp
from dualbinary.contract.levels import Levels
from dualbinary.contract.schema import Operator
from dualbinary.contract.weight import PlaneWeight
from dualbinary.files.cache_names import present_name

__all__ = ["ReferenceModel"]

Arrays = dict[str, np.ndarray]


class _Node(OpRun):
    """A node of ours, whose inputs and attributes have their names of the contract."""

    op_domain = OP.domain
    operator: ClassVar[Operator]

    def _run(self, *inputs: Any, **_: Any) -> tuple[np.ndarray, ...]:
        names = [value.name for value in self.operator.inputs]
        given = {name: value for name, value in zip(names, inputs, strict=False) if value is not None}
        values = {each.name: helper.get_attribute_value(each) for each in self.onnx_node.attribute}
        y, *others = self.compute(given, values)
        return (y.astype(inputs[0].dtype), *others)

    def compute(self, given: Arrays, values: dict[str, Any]) -> tuple[np.ndarray, ...]:
        raise NotImplementedError


def _matrix(prefix: str, given: Arrays, values: dict[str, Any], K: int) -> np.ndarray:
    """The weight [N, K] of a product."""
    layout = OP.layout(values[f"{prefix}layout"]).name
    levels = Levels(bool(values.get(f"{prefix}levels", 0)), values.get(f"{prefix}twice_zero", 0))
    tensors = given.pop(f"{prefix}planes"), given.pop(f"{prefix}scales")
    return PlaneWeight.of(*tensors, K, values[f"{prefix}group_size"], layout, levels).dequantize()


class DualBinaryMatMul(_Node):
    operator = OP

    def compute(self, given: Arrays, values: dict[str, Any]) -> tuple[np.ndarray, ...]:
        return (given["X"] @ _matrix("", given, values, values["K"]).T,)


class DualBinaryMlp(_Node):
    operator = MLP

    def compute(self, given: Arrays, values: dict[str, Any]) -> tuple[np.ndarray, ...]:
        weights = {
            "gate_up": _matrix("gate_up_", given, values, values["hidden_size"]),
            "down": _matrix("down_", given, values, values["intermediate_size"]),
        }
        kept = {name: values[name] for name in ("activation", "epsilon") if name in values}
        vectors: dict[str, Any] = given
        return (mlp(vectors.pop("X"), **weights, **kept, **vectors),)


class DualBinaryAttention(_Node):
    operator = ATTENTION

    def compute(self, given: Arrays, values: dict[str, Any]) -> tuple[np.ndarray, ...]:
        form = AttentionForm(**{name: values[name] for name in AttentionForm.__dataclass_fields__ if name in values})
        weights = {
            "qkv": _matrix("qkv_", given, values, values["hidden_size"]),
            "o": _matrix("o_", given, values, form.num_heads * form.head_size),
        }
        tables = (given.pop("cos_table"), given.pop("sin_table")) if "cos_table" in given else None
        longest = int(given.pop("longest").item())
        x, key, value, last = (given.pop(name) for name in ("X", "past_key", "past_value", "last_keys"))
        vectors: dict[str, Any] = given
        return attention(x, key, value, last, longest, form, tables=tables, **weights, **vectors)


class ReferenceModel:
    """One sequence through an exported model, token by token or several at once."""

    def __init__(self, path: Path) -> None:
        """Load the file."""
        model = onnx.load(path)
        nodes = [DualBinaryMatMul, DualBinaryMlp, DualBinaryAttention]
        ours = {each.__name__ for each in nodes}
        for node in model.graph.node:
            if node.op_type in ours:
                node.domain = OP.domain  # the others tell functions apart, which the evaluator would run
        kept = [function for function in model.functions if function.name not in ours]
        del model.functions[:]
        model.functions.extend(kept)
        self._evaluator = ReferenceEvaluator(model, new_ops=nodes)
        self._names = [value.name for value in model.graph.output]
        self._presents: dict[str, str] = {}
        self.length = 0
        self.cache: Arrays = {}
        for value in model.graph.input:
            if (present := present_name(value.name)) is not None:
                self._presents[value.name] = present
                dims = value.type.tensor_type.shape.dim
                kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
                self.cache[value.name] = np.zeros((1, dims[1].dim_value, 0, dims[3].dim_value), kind)

    def step(self, tokens: list[int]) -> np.ndarray:
        """Logits [vocabulary] after `tokens`, behind those of before."""
        self.length += len(tokens)
        feeds = {"input_ids": np.array([tokens]), "attention_mask": np.ones((1, self.length), np.int64), **self.cache}
        results: list[Any] = list(self._evaluator.run(None, feeds))
        outputs: Arrays = dict(zip(self._names, results, strict=True))
        self.cache = {past: outputs[present] for past, present in self._presents.items()}
        return outputs["logits"][0, -1]
