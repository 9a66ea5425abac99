"""`--target cuda`: the graph, what it refuses, and that it computes the model on the CPU provider at least."""

import json
import re
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import parser

from dualbinary import OP, InputError
from exporter.__main__ import main
from exporter.graph import cuda_support
from exporter.graph.cuda_support import CUDA_SUPPORT, copies_and_gaps
from exporter.options import ExportOptions
from exporter.pipeline import export
from exporter.verify import check
from tests.support.families import by_kind
from tests.support.quantized_checkpoints import quantize
from tests.support.tiny_models import CONFIGS, WITH_STATES

# GroupQueryAttention has no heads of 20, no latent attention, whose values are narrower than keys, and no sinks here.
OF_OTHER_ATTENTION = ("llama_head20", "deepseek_v2", "deepseek_v3", "gpt_oss", "youtu")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "run_on_cuda.md"


def nodes(out, op_type):
    return [node for node in ir.load(out).graph if node.op_type == op_type]


def operand(node, index=0) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value


def producer(node, index=0) -> ir.Node:
    made_by = operand(node, index).producer()
    assert made_by is not None
    return made_by


def inputs_of_cache(out):
    return [value for value in ir.load(out).graph.inputs if str(value.name).startswith("past_key_values.")]


@pytest.mark.parametrize("name", by_kind(name for name in CONFIGS if name not in WITH_STATES))
def test_every_node_has_a_kernel_and_nothing_is_copied(kept, name):
    result, out = kept(name, target="cuda")

    assert copies_and_gaps(ir.load(out)) == []
    assert not any(line.startswith("on CUDA") for line in result.warnings)
    layers = 0 if name in OF_OTHER_ATTENTION else 4 if name == "gemma4_text" else 2
    # of GroupQueryAttention, whose cache can be shared
    assert len(nodes(out, "GroupQueryAttention")) == layers
    assert {value.dtype for value in inputs_of_cache(out)} == {ir.DataType.FLOAT16}


@pytest.mark.parametrize(("target", "dtype"), [("cpu", "fp32"), ("cuda", "fp16")])
def test_the_target_decides_on_the_type_unless_it_is_given(kept, target, dtype):
    result, out = kept("llama", target=target)

    assert result.report["options"]["dtype"] == dtype
    for node in nodes(out, "DualBinaryMatMul"):
        assert operand(node).dtype == {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16}[dtype]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, None) for name in ("llama", "llama_tied", "gemma2", "bloom", "gpt2", "gpt_neox", "mixtral")),
        *((name, "fp32") for name in ("llama_tied", "gemma2", "bloom")),  # casts around attention of each kind
        *(pytest.param(name, "fp32", marks=pytest.mark.slow) for name in ("llama", "gpt2", "gpt_neox", "mixtral")),
    ],
)
def test_the_graph_agrees_with_transformers_on_the_cpu_provider(kept, library, name, dtype):
    result, out = kept(name, target="cuda", dtype=dtype, logits="all", levels="free")

    outcome = check(result, out, library)

    assert outcome.passed, outcome
    assert outcome.top1 >= 0.95
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        assert outcome.provider == "cpu"
    assert copies_and_gaps(ir.load(out)) == []


@pytest.mark.parametrize(("fallback", "level"), [("ort4", 0), ("ort2", 4), ("standard", 0)])
@pytest.mark.parametrize("dtype", [None, pytest.param("fp32", marks=pytest.mark.slow)])
def test_the_function_stands_in_for_the_library(pristine_model, fitted, fallback, level, dtype):
    options = {"dtype": dtype, "fallback": fallback, "accuracy_level": level, "levels": "free"}
    result, out = fitted(pristine_model("qwen2"), target="cuda", **options)

    assert check(result, out, None).passed


def test_float32_is_float16_in_attention_and_nowhere_else(kept):
    _, out = kept("llama", target="cuda", dtype="fp32")

    for node in nodes(out, "GroupQueryAttention"):
        assert producer(node).op_type == "Cast"
        assert [use.node.op_type for use in node.outputs[0].uses()] == ["Cast"]
    for node in nodes(out, "DualBinaryMatMul"):
        assert operand(node).dtype == ir.DataType.FLOAT
    assert {value.dtype for value in inputs_of_cache(out)} == {ir.DataType.FLOAT16}
    session = ort.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].type == "tensor(float)"


def test_zero_points_of_the_embedding_are_written_down_and_fold(kept, tmp_path):
    _, out = kept("llama", target="cuda")

    assert nodes(out, "GatherBlockQuantized")
    for node in nodes(out, "GatherBlockQuantized"):
        expand = producer(node, 3)
        assert expand.op_type == "Expand"
        byte = operand(expand).const_value
        assert byte is not None
        assert (byte.numpy() == 0x88).all()
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(str(out), options, providers=["CPUExecutionProvider"])
    for node in nodes(tmp_path / "optimized.onnx", "GatherBlockQuantized"):
        assert operand(node, 3).is_initializer()


@pytest.mark.parametrize(("bits", "products"), [(2, 1), (3, 1), (4, 1), (8, 0)])
def test_the_head_is_planes_where_the_kernels_take_so_many(pristine_model, fitted, bits, products):
    _, out = fitted(pristine_model("llama"), target="cuda", embedding_bits=bits, fallback="none")

    heads = [node for node in nodes(out, "DualBinaryMatMul") if str(node.name).startswith("lm_head.")]
    assert len(heads) == products
    assert copies_and_gaps(ir.load(out)) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "avx2"}, r"layout: expected plain with target cuda.*, got avx2; .*use target cpu"),
        ({"planes": 5}, r"planes: expected 1 to 4 with target cuda, got 5; use fewer, or target cpu"),
    ],
)
def test_what_the_kernels_do_not_take_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        ExportOptions(target="cuda", **options)
    ExportOptions(**options)


def test_a_checkpoint_of_more_planes_is_refused(pristine_model, tmp_path):
    quantize(pristine_model("llama"), tmp_path / "checkpoint", planes=5)
    with pytest.raises(InputError, match=r"target: expected cpu for .*checkpoint of 5 planes.*use target cpu"):
        export(tmp_path / "checkpoint", tmp_path / "out" / "model.onnx", ExportOptions(target="cuda"))
    assert not (tmp_path / "out").exists()


def test_a_layer_of_more_inputs_than_the_kernels_take_is_refused(pristine_model, tmp_path, monkeypatch):
    monkeypatch.setitem(OP.cuda, "max_k", 32)
    with pytest.raises(
        InputError, match=r"model\.layers\.0\..*\.weight: .* up to 32 inputs, got \d+; use --target cpu"
    ):
        export(pristine_model("llama"), tmp_path / "out.onnx", ExportOptions(target="cuda"), progress=False)


@pytest.mark.parametrize("option", [["--layout", "neon"], ["--planes", "8"]])
def test_the_command_refuses_with_one_line(pristine_model, tmp_path, capfd, option):
    assert main([str(pristine_model("llama")), str(tmp_path / "m.onnx"), "--target", "cuda", *option]) == 2
    assert len(capfd.readouterr().err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this onnxruntime has CUDA")
def test_check_says_that_it_ran_on_the_cpu(pristine_model, tmp_path, capfd):
    arguments = [str(pristine_model("llama")), str(tmp_path / "m.onnx"), "--target", "cuda", "--check"]
    assert main([*arguments, "--json"]) == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out)["check"]["provider"] == "cpu"
    assert "CPU provider ran the check" in captured.err

    assert main([*arguments, "--force"]) == 0
    assert "check passed (cpu provider, library" in capfd.readouterr().out


def test_both_libraries_lie_beside_the_model(pristine_model, tmp_path, library):
    cuda = tmp_path / "libdualbinary_cuda.so"
    cuda.write_bytes(b"kernels")
    out = tmp_path / "out" / "model.onnx"

    export(pristine_model("llama"), out, ExportOptions(target="cuda"), library=library, cuda_library=cuda)

    session = json.loads((out.parent / "genai_config.json").read_text())["model"]["decoder"]["session_options"]
    assert (out.parent / library.name).read_bytes() == library.read_bytes()
    assert session["provider_options"] == [{"cuda": {"enable_cuda_graph": "0"}}]
    assert (out.parent / cuda.name).read_bytes() == b"kernels"

    export(pristine_model("llama"), out, ExportOptions(), library=library, force=True)
    assert not (out.parent / cuda.name).exists()  # it was that of the model before


def test_a_node_without_a_kernel_is_pointed_out(pristine_model, fitted, monkeypatch):
    monkeypatch.delitem(cuda_support.CUDA_SUPPORT, ("", "Sigmoid"))

    result, _ = fitted(pristine_model("llama"), target="cuda")

    assert "on CUDA, Sigmoid: no CUDA kernel is known" in result.warnings


# float16 [N] is x, int64 [N] is i, a mask is m.
GRAPH = """<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]>
g (float16[n] x, int64[n] i, int64[b, t] m) => (float16[n] y) {{
{body}
}}"""


@pytest.mark.parametrize(
    ("body", "findings"),
    [
        ("y = Sigmoid (x)", []),
        ("y = Selu (x)", ["Selu: no CUDA kernel is known"]),
        ("b = Cast <to = 9> (x) c = Sigmoid (b) y = Cast <to = 10> (c)", ["Sigmoid: no CUDA kernel for bool"]),
        # What follows from a shape stays on the CPU and may be an input that is read there,
        ("s = Shape (m) e = Expand (x, s) y = Identity_ (e)", ["Identity_: no CUDA kernel is known"]),
        ("s = Shape <start = 0, end = 1> (x) d = Add (s, s) y = Reshape (x, d)", []),
        # but not one that is read on the GPU,
        (
            "s = Shape <start = 0, end = 1> (x) f = Cast <to = 10> (s) y = Mul (x, f)",
            ["Mul: its input 1 would be copied from the CPU to the GPU at every step"],
        ),
        # while Range takes its arguments from the CPU and gives what it makes to the GPU.
        (
            "s = Shape <start = 0, end = 1> (x) d = Squeeze (s) z = Sub (d, d) r = Range (z, d, d) "
            "f = Cast <to = 10> (r) y = Mul (x, f)",
            [],
        ),
        # Nor can what the GPU computes be a shape.
        (
            "d = Add (i, i) y = Reshape (x, d)",
            ["Reshape: its input 1 would be copied from the GPU to the CPU at every step"],
        ),
    ],
)
def test_copies_and_gaps_are_found(body, findings):
    model = ir.from_proto(parser.parse_model(GRAPH.format(body=body)))

    assert copies_and_gaps(model) == findings


def test_the_page_has_the_table():
    row = re.compile(r"^\| (?:(com\.microsoft|dualbinary) )?(\w+) \| ([\w, ]+) \| ([\d, ]*)\|$", re.MULTILINE)
    described = {}
    for domain, op, types, host in row.findall(PAGE.read_text(encoding="utf-8")):
        inputs = tuple(int(each) for each in re.findall(r"\d+", host))
        described[domain, op] = set(types.split(", ")), inputs

    assert described == {
        name: ({dtype.name.lower() for dtype in support.types}, support.host) for name, support in CUDA_SUPPORT.items()
    }


def test_a_mask_that_is_longer_than_the_tokens_gives_the_same_logits_with_linear_biases(kept):
    """Positions are counted from what the mask holds: a step of static shapes has a mask of the cache's length."""
    _, out = kept("bloom", target="cuda")
    session = ort.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    ids = np.random.default_rng(0).integers(4, 250, (1, 10))
    past = {
        value.name: np.zeros((1, value.shape[1], 16, value.shape[3]), np.float16)
        for value in session.get_inputs()
        if value.name.startswith("past_key_values.")
    }
    names = [value.name for value in session.get_outputs()]

    def step(tokens, mask, cache):
        outputs = session.run(None, {"input_ids": tokens, "attention_mask": mask, **cache})
        values = dict(zip(names, outputs, strict=True))
        return np.asarray(values["logits"]), {
            name: values[name.replace("past_key_values", "present")] for name in cache
        }

    _, filled = step(ids[:, :9], np.ones((1, 9), np.int64), past)
    exact, _ = step(ids[:, 9:], np.ones((1, 10), np.int64), filled)
    padded, _ = step(ids[:, 9:], np.concatenate([np.ones((1, 10)), np.zeros((1, 6))], 1).astype(np.int64), filled)

    assert np.array_equal(exact, padded)
