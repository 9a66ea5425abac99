"""A graph that ONNX Runtime cannot run is refused before any weight is read."""

import onnx_ir as ir
import pytest

from dualbinary import InputError
from exporter.graph.build import build_graph
from exporter.graph.dry_run import refuse_what_cannot_run
from exporter.source.model_directory import ModelDirectory


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_graph_that_runs_passes_and_stays_as_it_is(pristine_model, name, dtype):
    model = build_graph(ModelDirectory(pristine_model(name)), dtype).model
    before = ir.to_proto(model).SerializeToString(deterministic=True)

    refuse_what_cannot_run(model, name)

    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_cache_of_another_width_is_refused(pristine_model):
    model = build_graph(ModelDirectory(pristine_model("llama")), "fp32").model
    attention = next(node for node in model.graph if node.op_type == "Attention")
    attention.attributes["kv_num_heads"] = ir.AttrInt64("kv_num_heads", 1)

    with pytest.raises(InputError, match="a llama of this configuration is not supported: ONNX Runtime cannot run"):
        refuse_what_cannot_run(model, "llama")
