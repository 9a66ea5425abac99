"""What ONNX Runtime's CUDA execution provider runs of a graph, and where it would copy between CPU and GPU.

A node without a CUDA kernel for its type runs on the CPU, with a Memcpy node on either side: a copy and a wait at every
step, and no CUDA graph can be captured. Nothing says so but a log, so an export for CUDA is checked here.

The table is that of the nodes which exports consist of, as docs/howto/run_on_cuda.md lists it with its sources. `host`
are the inputs that a kernel reads from host memory: shapes and axes.
"""

from dataclasses import dataclass

import onnx_ir as ir

from dualbinary import OP

__all__ = ["KERNELS", "Kernel", "copies_and_gaps"]

_T = ir.DataType
_FLOATS = frozenset({_T.FLOAT, _T.FLOAT16})
_NUMBERS = _FLOATS | {_T.INT32, _T.INT64}
_ALL = _NUMBERS | {_T.BOOL, _T.UINT8}
_MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Kernel:
    """A kernel's `types`, those of input `typed`; outputs are of the same type, or of `result`."""

    types: frozenset[ir.DataType]
    typed: int = 0
    host: tuple[int, ...] = ()
    result: ir.DataType | None = None


KERNELS: dict[tuple[str, str], Kernel] = {
    ("", "Add"): Kernel(_NUMBERS),
    ("", "And"): Kernel(frozenset({_T.BOOL})),
    ("", "Attention"): Kernel(_FLOATS),
    ("", "Cast"): Kernel(_ALL),  # the result is its attribute's
    ("", "Concat"): Kernel(_ALL),
    ("", "CumSum"): Kernel(_NUMBERS, host=(1,)),
    ("", "Div"): Kernel(_NUMBERS),
    ("", "Equal"): Kernel(_NUMBERS | {_T.BOOL}, result=_T.BOOL),
    ("", "Expand"): Kernel(_ALL, host=(1,)),
    ("", "Gather"): Kernel(_ALL),
    ("", "Gelu"): Kernel(_FLOATS),
    ("", "Greater"): Kernel(_NUMBERS, result=_T.BOOL),
    ("", "LayerNormalization"): Kernel(_FLOATS),
    ("", "LessOrEqual"): Kernel(_NUMBERS, result=_T.BOOL),
    ("", "MatMul"): Kernel(_FLOATS),
    ("", "Min"): Kernel(_NUMBERS),
    ("", "Mul"): Kernel(_NUMBERS),
    ("", "Range"): Kernel(frozenset({_T.FLOAT, _T.INT32, _T.INT64}), host=(0, 1, 2)),
    ("", "ReduceSum"): Kernel(_NUMBERS, host=(1,)),
    ("", "Relu"): Kernel(_FLOATS),
    ("", "Reshape"): Kernel(_ALL, host=(1,)),
    ("", "RMSNormalization"): Kernel(_FLOATS),
    ("", "RotaryEmbedding"): Kernel(_FLOATS),
    ("", "Shape"): Kernel(_ALL, result=_T.INT64),
    ("", "Sigmoid"): Kernel(_FLOATS),
    ("", "Slice"): Kernel(_ALL, host=(1, 2, 3, 4)),
    ("", "Softmax"): Kernel(_FLOATS),
    ("", "Split"): Kernel(_ALL, host=(1,)),
    ("", "Squeeze"): Kernel(_ALL, host=(1,)),
    ("", "Sub"): Kernel(_NUMBERS),
    ("", "Tanh"): Kernel(_FLOATS),
    ("", "TopK"): Kernel(_NUMBERS, host=(1,)),  # the second result is int64
    ("", "Transpose"): Kernel(_ALL),
    ("", "Unsqueeze"): Kernel(_ALL, host=(1,)),
    ("", "Where"): Kernel(_NUMBERS | {_T.UINT8}, typed=1),
    (_MICROSOFT, "GatherBlockQuantized"): Kernel(_FLOATS, typed=2),
    (_MICROSOFT, "GroupQueryAttention"): Kernel(frozenset({_T.FLOAT16}), host=(6,)),
    (_MICROSOFT, "MatMulNBits"): Kernel(_FLOATS),
    (_MICROSOFT, "SkipLayerNormalization"): Kernel(_FLOATS),
    (_MICROSOFT, "SkipSimplifiedLayerNormalization"): Kernel(_FLOATS),
    (OP.domain, OP.name): Kernel(_FLOATS),
}


def copies_and_gaps(model: ir.Model) -> list[str]:
    """One line for each kind of node that would not run on the GPU, or would need a copy from or to it.

    Constants are folded when a model is loaded, and arithmetic with what a Shape gave is done on the CPU, whatever the
    provider; neither counts.
    """
    found: dict[str, None] = {}  # an ordered set
    places = _Places()
    for node in model.graph:
        domain = "" if node.domain == "ai.onnx" else node.domain
        kernel = KERNELS.get((domain, node.op_type))
        dtype = places.record_types(node, kernel)
        if node.op_type == "Constant" or places.folds(node):
            places.constants.update(node.outputs)
            continue
        if kernel is None:
            found[f"{node.op_type}: no CUDA kernel is known"] = None
            continue
        if dtype is not None and dtype not in kernel.types:
            found[f"{node.op_type}: no CUDA kernel for {dtype.name.lower()}"] = None
        if node.op_type == "Shape" or places.goes_on_with_shapes(node, kernel):
            places.host.update(node.outputs)
            continue
        for index, value in enumerate(node.inputs):
            if value is None or value in places.constants or value.is_initializer():
                continue
            if (value in places.host) != (index in kernel.host):
                way = "from the GPU to the CPU" if index in kernel.host else "from the CPU to the GPU"
                found[f"{node.op_type}: its input {index} would be copied {way} at every step"] = None
    return list(found)


class _Places:
    """Where values are as the graph is walked: `constants` folded at loading, `host` on the CPU, others on the GPU."""

    def __init__(self) -> None:
        self.constants: set[ir.Value] = set()
        self.host: set[ir.Value] = set()
        self._types: dict[ir.Value, ir.DataType | None] = {}

    def folds(self, node: ir.Node) -> bool:
        return all(v is None or v.is_initializer() or v in self.constants for v in node.inputs)

    def goes_on_with_shapes(self, node: ir.Node, kernel: Kernel) -> bool:
        """Whether all that varies is on the CPU, and some of it where the kernel for the GPU would not have it."""
        indices = [i for i, v in enumerate(node.inputs) if v is not None and not v.is_initializer()]
        indices = [i for i in indices if node.inputs[i] not in self.constants]
        return all(node.inputs[i] in self.host for i in indices) and any(i not in kernel.host for i in indices)

    def record_types(self, node: ir.Node, kernel: Kernel | None) -> ir.DataType | None:
        """The type that decides on the kernel, where it is known."""
        if kernel is None:
            return None
        value = node.inputs[kernel.typed]
        dtype = None if value is None else value.dtype or self._types.get(value)
        target = node.attributes.get("to")
        result = ir.DataType(target.as_int()) if target is not None else kernel.result or dtype
        self._types |= dict.fromkeys(node.outputs, result)
        if node.op_type == "TopK":
            self._types[node.outputs[1]] = _T.INT64
        return dtype
