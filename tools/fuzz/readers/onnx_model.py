"""An exported model, as `inspect`, `relayout` and a decoder's check of its data files read it."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from dualbinary import InputError
from dualbinary.contract.schema import OP
from dualbinary.contract.weight import PlaneFormat
from dualbinary.onnx_files.external_data import check_external_data
from dualbinary.onnx_files.relayout.convert import relayout
from importer.inspect.export import export_facts
from tools.fuzz.readers.sections import files_of, in_directory, joined

NAME = "onnx_model"

_N, _K = 32, 64
_FORMS = (PlaneFormat(2, 32, True), PlaneFormat(4, 32, False, levels="even", zero=8))


def seeds() -> Iterator[bytes]:
    """One product, with its planes in the file, beside it, and of even levels."""
    for index, form in enumerate((_FORMS[0], *_FORMS)):
        yield joined(_model(form, outside=index == 0))


def _model(form: PlaneFormat, *, outside: bool) -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    planes, scales = form.shapes(_N, _K)
    values = {"w.planes": rng.integers(0, 256, planes).astype(np.uint8), "w.scales": np.ones(scales, np.float16)}
    attributes: dict[str, Any] = {"K": _K, "N": _N, "group_size": form.group_size, "layout": OP.layouts[0].number}
    if form.node_levels.even:
        attributes |= {"levels": 1, "twice_zero": form.node_levels.twice_zero}
    node = helper.make_node(OP.name, ["x", *values], ["y"], domain=OP.domain, name="n", **attributes)
    kind = TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info("x", kind, [1, _K])]
    outputs = [helper.make_tensor_value_info("y", kind, [1, _N])]
    tensors = [numpy_helper.from_array(value, name) for name, value in values.items()]
    data = b""
    for tensor in tensors if outside else ():
        facts = {"location": "model.onnx.data", "offset": len(data), "length": len(tensor.raw_data)}
        data += tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in facts.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
    graph = helper.make_graph([node], "g", inputs, outputs, initializer=tensors)
    versions = [helper.make_opsetid("", 21), helper.make_opsetid(OP.domain, 1)]
    model = helper.make_model(graph, ir_version=10, opset_imports=versions)
    files = {"model.onnx": model.SerializeToString(), "genai_config.json": b'{"model": {"context_length": 64}}'}
    return files | ({"model.onnx.data": data} if outside else {})


def try_input(data: bytes) -> None:
    """Say what is in it, look where its data are, and write it in another layout."""
    with in_directory(files_of(data)) as directory:
        path = directory / "model.onnx"
        for act in (
            lambda: check_external_data(path),
            lambda: export_facts(path, read=True),
            lambda: relayout(path, directory / "out" / "model.onnx", "avx2"),
        ):
            with contextlib.suppress(InputError):
                act()
