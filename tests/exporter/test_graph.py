"""What the exported graph consists of."""

import json
from collections import Counter

import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from dualbinary import OP
from tests.support.tiny_models import VOCABULARY


def operators(out) -> Counter[str]:
    return Counter(node.op_type for node in ir.load(out).graph)


def test_every_decoder_linear_becomes_a_plane_node(kept):
    result, out = kept("llama", fuse="none")

    count = operators(out)
    assert count["MatMul"] == count["Gemm"] == 0
    assert count[OP.name] == 2 * 4 + 1  # each layer: qkv, o, gate and up, down; and the head
    assert [len(node.linears) for node in result.graph.nodes] == [3, 1, 2, 1] * 2


def test_projections_of_query_key_value_go_packed_into_attention(kept):
    for name in ("llama", "llama_tied"):  # without and with biases
        _, out = kept(name, fuse="none")
        attentions = [node for node in ir.load(out).graph if node.op_type == "GroupQueryAttention"]
        assert len(attentions) == 2  # one for each block
        for node in attentions:
            assert node.inputs[1] is None
            assert node.inputs[2] is None


def test_inputs_and_outputs_have_the_names_that_runtimes_expect(kept):
    _, out = kept("llama")

    graph = ir.load(out).graph
    assert [value.name for value in graph.inputs] == [
        "input_ids",
        "attention_mask",
        *(f"past_key_values.{layer}.{kind}" for layer in range(2) for kind in ("key", "value")),
    ]
    assert [value.name for value in graph.outputs] == [
        "logits",
        *(f"present.{layer}.{kind}" for layer in range(2) for kind in ("key", "value")),
        "verify_logits",
    ]


@pytest.mark.parametrize(
    "options",
    [{"verify_tokens": 0}, {"logits": "all"}, {"op": "matmulnbits", "levels": "even"}, {"target": "cuda"}],
    ids=str,
)
def test_there_is_one_output_of_logits_where_a_second_one_would_say_nothing_new(kept, options):
    _, out = kept("llama", **options)
    assert "verify_logits" not in [value.name for value in ir.load(out).graph.outputs]


@pytest.mark.parametrize(("options", "tokens"), [({}, "8"), ({"accuracy_level": 4}, "3"), ({"verify_tokens": 5}, "5")])
def test_the_file_says_how_many_tokens_one_run_checks(kept, options, tokens):
    _, out = kept("llama", **options)
    assert ir.load(out).metadata_props["dualbinary.verify_tokens"] == tokens


@pytest.mark.parametrize(("logits", "positions"), [("last", 1), ("all", "sequence_len")])
def test_logits_declare_how_many_positions_they_have(kept, logits, positions):
    _, out = kept("llama", logits=logits)

    session = ort.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].shape == ["batch", positions, VOCABULARY]


def test_positions_stay_an_input_where_the_model_looks_them_up(kept):
    _, out = kept("gpt2")

    assert "position_ids" in [value.name for value in ir.load(out).graph.inputs]


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 16, 32])
@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_tied_tables_are_stored_once(kept, bits, target):
    result, out = kept("llama_tied", embedding_bits=bits, target=target, fallback="none")

    (table,) = result.graph.tables
    names = [name for name in ir.load(out).graph.initializers if name.startswith(("model.embed", "lm_head"))]
    assert {name for name in names if not {"lookup", "head"} & set(name.split("."))} == {v.name for v in table.values}
    (row,) = result.report["tables"]
    assert row["bytes"] == result.report["totals"]["table_bytes"]
    assert bits <= row["bits_per_weight"] <= bits + 0.7  # codes, zero points and a factor, in rows of 128


def test_untied_tables_are_two(kept):
    result, _ = kept("llama")

    assert [table.parameter for table in result.graph.tables] == ["model.embed_tokens.weight", "lm_head.weight"]


def test_window_of_config_reaches_attention(kept):
    windows = {}
    for name in ("mistral_window", "gemma2", "llama"):
        _, out = kept(name, fuse="none")
        nodes = [node for node in ir.load(out).graph if node.op_type == "GroupQueryAttention"]
        windows[name] = [
            node.attributes["local_window_size"].as_int() if "local_window_size" in node.attributes else 0
            for node in nodes
        ]

    assert windows == {"mistral_window": [8, 8], "gemma2": [8, 0], "llama": [0, 0]}


def test_routers_of_experts_stay_in_full_precision(kept):
    result, out = kept("mixtral")

    assert operators(out)["MatMul"] == 2
    modules = [linear.module for node in result.graph.nodes for linear in node.linears]
    assert not any(module.endswith(".gate") for module in modules)
    assert sum(".experts." in module for module in modules) == 2 * 4 * 3


def test_function_is_there_unless_refused(kept):
    _, out = kept("llama")
    functions = [f.domain for f in ir.load(out).functions.values() if f.name == OP.name]
    assert functions == list(OP.domain_names[:2])  # of the layers, and of the head

    _, out = kept("llama", fallback="none")
    assert not any(f.name == OP.name for f in ir.load(out).functions.values())
    with pytest.raises(Exception, match=OP.name):
        ort.InferenceSession(str(out), providers=["CPUExecutionProvider"])


def test_model_passes_the_checker(kept):
    _, out = kept("llama")

    onnx.checker.check_model(str(out))


def test_model_asks_for_no_newer_runtime_than_it_needs(kept):
    _, out = kept("llama")

    model = ir.load(out)
    assert (model.graph.opset_imports[""], model.ir_version) == (23, 10)


def test_data_lies_at_offsets_that_can_be_mapped(kept):
    _, out = kept("llama")

    graph = ir.load(out).graph
    external = [v.const_value for v in graph.initializers.values() if isinstance(v.const_value, ir.ExternalTensor)]
    assert {str(tensor.location) for tensor in external} == {"model.onnx.data"}
    assert len(external) > 10
    assert all(tensor.offset is not None and tensor.offset % 4096 == 0 for tensor in external)


def test_report_adds_up(kept):
    result, out = kept("llama", planes=2, group_size=64, levels="free")

    report = json.loads((out.parent / "export_report.json").read_text())
    totals = report["totals"]
    assert totals["quantised_weights"] == sum(row["N"] * row["K"] for row in report["layers"])
    assert totals["file_bytes"] == (out.parent / "model.onnx.data").stat().st_size
    # Two planes and two float16 scales for 64 weights; rows of 160 weights are padded to 192.
    square = next(row for row in report["layers"] if row["module"].endswith("layers.0.self_attn.o_proj"))
    assert square["bits_per_weight"] == 2 + 2 * 16 / 64
    assert all(0 < row["relative_squared_error"] < 0.2 for row in report["layers"])
    assert report == json.loads(json.dumps(result.report))


def test_genai_config_describes_the_graph(kept):
    _, out = kept("gemma2", target="cuda")

    config = json.loads((out.parent / "genai_config.json").read_text())
    decoder = config["model"]["decoder"]
    assert config["model"]["type"] == "gemma2"
    assert (decoder["num_hidden_layers"], decoder["num_key_value_heads"], decoder["head_size"]) == (2, 2, 32)
    assert decoder["session_options"]["provider_options"] == [{"cuda": {"enable_cuda_graph": "0"}}]
    assert config["search"]["past_present_share_buffer"] is True
