"""Nodes that ONNX Runtime's CUDA execution provider does not run, and copies between CPU and GPU.

A node without a CUDA kernel for its type runs on the CPU, with a Memcpy node on either side: a copy and a wait at every
step, and no CUDA graph can be captured. Only a log says so, so an export for CUDA is checked here.

The table has the operators of our exports; docs/howto/run_on_cuda.md lists it with its sources.
"""

from dataclasses import dataclass

import onnx_ir as ir

from dualbinary import OP

__all__ = ["CUDA_SUPPORT", "EpSupport", "copies_and_gaps"]

_T = ir.DataType
_FLOATS = frozenset({_T.FLOAT, _T.FLOAT16})
_NUMBERS = _FLOATS | {_T.INT32, _T.INT64}
_ALL = _NUMBERS | {_T.BOOL, _T.UINT8}
_MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class EpSupport:
    """An execution provider's support of an operator.

    Attributes:
        types: element types of input `typed` that it has a kernel for.
        host: inputs that the kernel reads from host memory: shapes and axes.
        result: element type of the outputs; None for that of input `typed`.
    """

    types: frozenset[ir.DataType]
    typed: int = 0
    host: tuple[int, ...] = ()
    result: ir.DataType | None = None


CUDA_SUPPORT: dict[tuple[str, str], EpSupport] = {
    ("", "Add"): EpSupport(_NUMBERS),
    ("", "And"): EpSupport(frozenset({_T.BOOL})),
    ("", "Attention"): EpSupport(_FLOATS),
    ("", "Cast"): EpSupport(_ALL),  # the result is its attribute's
    ("", "Clip"): EpSupport(_FLOATS | {_T.INT64}, host=(1, 2)),
    ("", "Concat"): EpSupport(_ALL),
    ("", "CumSum"): EpSupport(_NUMBERS, host=(1,)),
    ("", "Div"): EpSupport(_NUMBERS),
    ("", "Equal"): EpSupport(_NUMBERS | {_T.BOOL}, result=_T.BOOL),
    ("", "Exp"): EpSupport(_FLOATS),
    ("", "Expand"): EpSupport(_ALL, host=(1,)),
    ("", "Gather"): EpSupport(_ALL),
    ("", "GatherElements"): EpSupport(_ALL),
    ("", "Gelu"): EpSupport(_FLOATS),
    ("", "Greater"): EpSupport(_NUMBERS, result=_T.BOOL),
    ("", "GreaterOrEqual"): EpSupport(_NUMBERS, result=_T.BOOL),
    ("", "LayerNormalization"): EpSupport(_FLOATS),
    ("", "Less"): EpSupport(_NUMBERS, result=_T.BOOL),
    ("", "LessOrEqual"): EpSupport(_NUMBERS, result=_T.BOOL),
    ("", "Log"): EpSupport(_FLOATS),
    ("", "MatMul"): EpSupport(_FLOATS),
    ("", "Max"): EpSupport(_NUMBERS),
    ("", "Min"): EpSupport(_NUMBERS),
    ("", "Mul"): EpSupport(_NUMBERS),
    ("", "Neg"): EpSupport(_NUMBERS),
    ("", "OneHot"): EpSupport(frozenset({_T.INT32, _T.INT64}), host=(1, 2), result=_T.FLOAT),
    ("", "Range"): EpSupport(frozenset({_T.FLOAT, _T.INT32, _T.INT64}), host=(0, 1, 2)),
    ("", "ReduceMax"): EpSupport(_NUMBERS, host=(1,)),
    ("", "ReduceMean"): EpSupport(_FLOATS, host=(1,)),
    ("", "ReduceSum"): EpSupport(_NUMBERS, host=(1,)),
    ("", "Relu"): EpSupport(_FLOATS),
    ("", "Reshape"): EpSupport(_ALL, host=(1,)),
    ("", "RMSNormalization"): EpSupport(_FLOATS),
    ("", "RotaryEmbedding"): EpSupport(_FLOATS),
    ("", "ScatterElements"): EpSupport(_ALL),
    ("", "Shape"): EpSupport(_ALL, result=_T.INT64),
    ("", "Sigmoid"): EpSupport(_FLOATS),
    ("", "Slice"): EpSupport(_ALL, host=(1, 2, 3, 4)),
    ("", "Softmax"): EpSupport(_FLOATS),
    ("", "Split"): EpSupport(_ALL, host=(1,)),
    ("", "Sqrt"): EpSupport(_FLOATS),
    ("", "Squeeze"): EpSupport(_ALL, host=(1,)),
    ("", "Sub"): EpSupport(_NUMBERS),
    ("", "Tanh"): EpSupport(_FLOATS),
    ("", "TopK"): EpSupport(_NUMBERS, host=(1,)),  # the second result is int64
    ("", "Transpose"): EpSupport(_ALL),
    ("", "Unsqueeze"): EpSupport(_ALL, host=(1,)),
    ("", "Where"): EpSupport(_NUMBERS | {_T.UINT8}, typed=1),
    (_MICROSOFT, "GatherBlockQuantized"): EpSupport(_FLOATS, typed=2),
    (_MICROSOFT, "GroupQueryAttention"): EpSupport(frozenset({_T.FLOAT16}), host=(6,)),
    (_MICROSOFT, "MatMulNBits"): EpSupport(_FLOATS),
    (_MICROSOFT, "SkipLayerNormalization"): EpSupport(_FLOATS),
    (_MICROSOFT, "SkipSimplifiedLayerNormalization"): EpSupport(_FLOATS),
    (OP.domain, OP.name): EpSupport(_FLOATS),
}


def copies_and_gaps(model: ir.Model) -> list[str]:
    """One line for each kind of node that would not run on the GPU, or would need a copy from or to it.

    Constants are folded when a model is loaded, and arithmetic with the result of a Shape is done on the CPU, whatever
    the provider; neither counts.
    """
    found: dict[str, None] = {}  # an ordered set
    placement = _Placement()
    for node in model.graph:
        domain = "" if node.domain == "ai.onnx" else node.domain
        domain = OP.domain if domain in OP.domain_names else domain
        support = CUDA_SUPPORT.get((domain, node.op_type))
        dtype = placement.record_types(node, support)
        if node.op_type == "Constant" or placement.folds(node):
            placement.constants.update(node.outputs)
            continue
        if support is None:
            found[f"{node.op_type}: no CUDA kernel is known"] = None
            continue
        if dtype is not None and dtype not in support.types:
            found[f"{node.op_type}: no CUDA kernel for {dtype.name.lower()}"] = None
        if node.op_type == "Shape" or placement.computes_shapes(node, support):
            placement.host.update(node.outputs)
            continue
        for index, value in enumerate(node.inputs):
            if value is None or value in placement.constants or value.is_initializer():
                continue
            if (value in placement.host) != (index in support.host):
                way = "from the GPU to the CPU" if index in support.host else "from the CPU to the GPU"
                found[f"{node.op_type}: its input {index} would be copied {way} at every step"] = None
    return list(found)


class _Placement:
    """The place of each value so far: `constants` fold at loading, `host` values are on the CPU, others on the GPU."""

    def __init__(self) -> None:
        self.constants: set[ir.Value] = set()
        self.host: set[ir.Value] = set()
        self._types: dict[ir.Value, ir.DataType | None] = {}

    def folds(self, node: ir.Node) -> bool:
        return all(v is None or v.is_initializer() or v in self.constants for v in node.inputs)

    def computes_shapes(self, node: ir.Node, support: EpSupport) -> bool:
        """Tell if all inputs that vary are on the CPU, one of them where the kernel would read it from the GPU."""
        indices = [i for i, v in enumerate(node.inputs) if v is not None and not v.is_initializer()]
        indices = [i for i in indices if node.inputs[i] not in self.constants]
        return all(node.inputs[i] in self.host for i in indices) and any(i not in support.host for i in indices)

    def record_types(self, node: ir.Node, support: EpSupport | None) -> ir.DataType | None:
        """The type that decides on the kernel, where it is known."""
        if support is None:
            return None
        value = node.inputs[support.typed]
        dtype = None if value is None else value.dtype or self._types.get(value)
        target = node.attributes.get("to")
        result = ir.DataType(target.as_int()) if target is not None else support.result or dtype
        self._types |= dict.fromkeys(node.outputs, result)
        if node.op_type == "TopK":
            self._types[node.outputs[1]] = _T.INT64
        return dtype
