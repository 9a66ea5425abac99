"""Memory does not grow with the model."""

import json

import torch
from safetensors.torch import save_file

from tests.peak_memory import run_measured

WIDTH, INNER, VOCABULARY = 512, 2048, 32000
FEW, MANY = 8, 40
# The allocator keeps what a few layers in flight needed, which takes some layers to settle and varies by some 50 MB.
# The weights of the layers between FEW and MANY are 268 MB in bfloat16.
ALLOWED_GROWTH = 120e6


def _write_model(directory, layers):
    directory.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }
    (directory / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    tensors = {"model.embed_tokens.weight": torch.randn(VOCABULARY, WIDTH, generator=generator).bfloat16()}
    tensors["model.norm.weight"] = torch.ones(WIDTH).bfloat16()
    shapes = {f"self_attn.{name}_proj": (WIDTH, WIDTH) for name in "qkvo"}
    shapes |= {"mlp.gate_proj": (INNER, WIDTH), "mlp.up_proj": (INNER, WIDTH), "mlp.down_proj": (WIDTH, INNER)}
    for layer in range(layers):
        for name, shape in shapes.items():
            weight = torch.randn(shape, generator=generator).bfloat16()
            tensors[f"model.layers.{layer}.{name}.weight"] = weight
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{norm}.weight"] = torch.ones(WIDTH).bfloat16()
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def test_peak_memory_is_that_of_a_few_layers(tmp_path):
    peaks = []
    for layers in (FEW, MANY):
        model_dir = _write_model(tmp_path / f"model{layers}", layers)
        out = tmp_path / f"out{layers}" / "model.onnx"
        peaks.append(run_measured(tmp_path, "exporter", model_dir, out, "--planes", 1, "--offset", "--quiet")[1])

    assert peaks[1] < peaks[0] + ALLOWED_GROWTH
