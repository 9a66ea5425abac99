"""A graph that is nothing but a token embedding and a head."""

import onnx_ir as ir


def model_of(rows, width):
    """Token embedding and, without weights in common, a head."""
    shape = ir.Shape([rows, width])
    tables = [ir.Value(name=n, shape=shape, type=ir.TensorType(ir.DataType.FLOAT)) for n in ("embedding", "head")]
    ids = ir.Value(name="input_ids", shape=ir.Shape(["batch", "sequence"]), type=ir.TensorType(ir.DataType.INT64))
    lookup = ir.node("Gather", [tables[0], ids])
    columns = ir.node("Transpose", [tables[1]], {"perm": [1, 0]})
    product = ir.node("MatMul", [lookup.outputs[0], columns.outputs[0]])
    outputs = [lookup.outputs[0], product.outputs[0]]
    for name, value in zip(("hidden", "logits"), outputs, strict=True):
        value.name, value.type = name, ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([ids], outputs, nodes=[lookup, columns, product], initializers=tables, opset_imports={"": 21})
    return ir.Model(graph, ir_version=10)
