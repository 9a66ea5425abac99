"""OpenVINO, which knows nothing of this project, gives what ONNX Runtime gives from a file of stock operators."""

import numpy as np
import pytest

from examples import openvino_generate
from exporter.options import ExportOptions
from exporter.pipeline import export
from runtime_ext.cache import cache_tensors
from tests.support import tiny_sessions as tiny
from tests.support.sessions import open_session, step
from tests.support.tiny_models import make_model

openvino = pytest.importorskip("openvino")

# Of the largest logit: float32 sums of up to 256 products in another order, 15 of them one behind another, add up like
# the square root of their number, 2^-24 * 16 * 4. Some 1e-6 was seen, and a tenth and more where a model was wrong.
TOLERANCE = 1e-5
ROUNDED = 0.05  # at accuracy level 4 ONNX Runtime alone rounds activations, to 8 bits; float16 has 11

# And activations as they are: CPUs that multiply bytes round them to 8 bits else.
F32 = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}

# Also Mixture of Experts, a window, a state, factors, biases and learned positions.
MODELS = [
    ("llama", {}),
    ("llama_tied", {"embedding_bits": 4}),
    ("qwen3", {"embedding_bits": 2}),
    ("qwen2", {"embedding_bits": 16}),
    ("gemma3_text", {"planes": 8}),
    ("llama", {"planes": 2, "accuracy_level": 4}),
    ("llama", {"planes": 4, "offset": True}),
    ("llama_tied", {"dtype": "fp16", "embedding_bits": 4}),
    *(pytest.param(name, {}, marks=pytest.mark.slow) for name in ("mistral_window", "mixtral", "lfm2", "granite")),
    *(pytest.param(name, {}, marks=pytest.mark.slow) for name in ("phi3", "gpt2", "bloom", "gpt_oss", "deepseek_v3")),
]


def steps(model, masks):
    """Logits of a prompt with `masks` [b, t] and of two tokens after it, from ONNX Runtime and from OpenVINO."""
    session, compiled = open_session(str(model), library=False), openvino.compile_model(model, "CPU", F32)
    ids = np.random.default_rng(0).integers(3, 90, masks.shape) * masks
    pasts = [{tensor.past: np.repeat(tensor.zeros(0), len(ids), axis=0) for tensor in cache_tensors(session)}] * 2
    for _ in range(3):
        theirs, pasts[0] = step(session, ids, masks, pasts[0])
        feeds = {"input_ids": ids, "attention_mask": masks, **pasts[1]}
        if "position_ids" in {value.any_name for value in compiled.inputs}:
            feeds["position_ids"] = np.maximum(masks.cumsum(1) - 1, 0)[:, -ids.shape[1] :]
        outputs = compiled(feeds)
        pasts[1] = {tensor.past: outputs[tensor.present] for tensor in cache_tensors(session)}
        yield theirs, outputs["logits"]
        ids = theirs[:, -1:].argmax(-1)
        masks = np.concatenate([masks, np.ones((len(masks), 1), np.int64)], axis=1)


@pytest.mark.parametrize(("name", "options"), MODELS, ids=str)
def test_logits_are_those_of_onnx_runtime(tmp_path, name, options):
    source, model = make_model(name, tmp_path / name), tmp_path / "model.onnx"
    export(source, model, ExportOptions(op="matmulnbits", levels="even", **{"planes": 4, **options}))
    padded = np.array([[0, 0, 0, 1, 1, 1, 1, 1, 1]])
    for masks in (np.ones_like(padded), padded):  # its GroupQueryAttention takes one sequence
        for theirs, found in steps(model, masks):
            limit = ROUNDED if {"accuracy_level", "dtype"} & options.keys() else TOLERANCE
            np.testing.assert_allclose(found, theirs, rtol=0, atol=limit * np.abs(theirs).max())


def test_the_example_prints_the_prompt_and_its_continuation(tmp_path, capsys):
    source = tiny.make_weights(tmp_path / "weights")
    model = tmp_path / "model" / "model.onnx"
    export(source, model, ExportOptions(op="matmulnbits", planes=4, levels="even"))
    tokenizer = tiny.make_tokenizer()
    tokenizer.save(str(model.with_name("tokenizer.json")))
    openvino_generate.main([str(model), "Hello"])
    ids = tokenizer.encode("Hello").ids
    found = openvino_generate.continued(model, ids, openvino_generate.NEW_TOKENS)
    assert len(found) == openvino_generate.NEW_TOKENS
    assert capsys.readouterr().out.rstrip("\n") == tokenizer.decode([*ids, *found])


def test_the_example_says_what_is_wrong(tmp_path):
    with pytest.raises(SystemExit, match=r"no\.onnx: no such file"):
        openvino_generate.main([str(tmp_path / "no.onnx"), "Hello"])
    model = tmp_path / "model" / "model.onnx"
    export(tiny.make_weights(tmp_path / "weights"), model, ExportOptions())
    tiny.make_tokenizer().save(str(model.with_name("tokenizer.json")))
    with pytest.raises(SystemExit, match="was it exported with --op matmulnbits"):
        openvino_generate.main([str(model), "Hello"])
    with pytest.raises(SystemExit, match="expected some tokens"):
        openvino_generate.main([str(model), ""])
