"""How many tokens a run may take for each to get the bits that it gets in a run of its own.

Kernels of this project add up each row's products in one order, whatever the number of rows: at level 0 for up to eight
rows, at level 4 for three, as more of even levels have another kernel. Products and attention of ONNX Runtime choose
their order by the number of rows.
"""

import onnx

from dualbinary.contract.schema import OP
from dualbinary.files.model_files import SAME_BITS_TOKENS, VERIFY_TOKENS

__all__ = ["ROWS_BY_LEVEL", "state_same_bits"]

ROWS_BY_LEVEL = {0: 8, 4: 3}
"""Rows, by accuracy level."""

_ORDERED_BY_ROWS = frozenset(
    {"Attention", "Conv", "Einsum", "Gemm", "GroupQueryAttention", "MatMul", "MatMulNBits", "MultiHeadAttention"}
)


def state_same_bits(model: onnx.ModelProto) -> None:
    """Write that number into the metadata of a model that can check guesses; no entry where there is none."""
    entries = {entry.key: entry.value for entry in model.metadata_props if entry.key != SAME_BITS_TOKENS}
    if VERIFY_TOKENS in entries and not any(node.op_type in _ORDERED_BY_ROWS for node in model.graph.node):
        levels = {_level(node) for node in model.graph.node if node.domain in OP.domain_names}
        tokens = min([ROWS_BY_LEVEL[level] for level in levels], default=0)
        entries[SAME_BITS_TOKENS] = str(min(tokens, int(entries[VERIFY_TOKENS])))
    onnx.helper.set_model_props(model, entries)


def _level(node: onnx.NodeProto) -> int:
    return next((each.i for each in node.attribute if each.name == "accuracy_level"), 0)
