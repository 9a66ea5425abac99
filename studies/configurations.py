"""Values of config.json beside those of the tests: is any exported as another model without a word?

    python -m studies.configurations [--only NAME] [--json]

Each row is a tiny random model of a verified type whose weights lie on a four-bit grid, so that the default fit is
exact and all that can differ is the graph. It is exported and run: a prompt of 100 tokens beyond small windows and
switches of the rotation, four cached steps, and the same tokens as a row padded on the left. transformers, which reads
the same directory, says what is right. A row is equal (to TOLERANCE of the largest logit), refused (with the sentence),
or WRONG; the command fails where one is.
"""

import argparse
import json
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
import transformers

import runtime_ext
from dualbinary import DualBinaryError
from dualbinary.cli.console import add_common_options, run
from exporter.options import ExportOptions
from exporter.pipeline import export
from runtime_ext.cache import cache_tensors

TOLERANCE = 2e-3  # level 0 keeps 15 bits of activations; a wrong graph is off by 1e-2 and more
TOKENS, STEPS, VOCABULARY, PADDING = 100, 4, 256, 9
_BASE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_OWN_BASE = {
    "gpt2": {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512}
    | {"bos_token_id": 1, "eos_token_id": 2},
    "bloom": {"vocab_size": VOCABULARY, "hidden_size": 64, "n_layer": 2, "n_head": 4},
    "opt": {k: v for k, v in _BASE.items() if k not in ("num_key_value_heads", "intermediate_size")}
    | {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "gpt_neox": {k: v for k, v in _BASE.items() if k != "num_key_value_heads"},
}
_WINDOW = 24
_MIXED = ["sliding_attention", "full_attention"]


def _rope(rope_type: str, **values: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": rope_type, "rope_theta": 10000.0, **values}}


def _old_rope(rope_type: str, **values: Any) -> dict[str, Any]:
    """The spelling of transformers 4, written into the file."""
    return {"rope_parameters": None, "rope_theta": 10000.0, "rope_scaling": {"type": rope_type, **values}}


_LONGROPE = {
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [1.0 + 0.8 * i for i in range(8)],
}
_GEMMA3 = {"head_dim": 16, "sliding_window": _WINDOW, "query_pre_attn_scalar": 16, "layer_types": _MIXED}

# Type, values of the configuration class, values written into config.json afterwards (None removes a key).
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama head_dim 32": ("llama", {"head_dim": 32}, {}),
    "llama one key head, biases": ("llama", {"num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True}, {}),
    "llama all key heads, gelu": ("llama", {"num_key_value_heads": 4, "hidden_act": "gelu"}, {}),
    "llama gelu_pytorch_tanh": ("llama", {"hidden_act": "gelu_pytorch_tanh"}, {}),
    "llama relu": ("llama", {"hidden_act": "relu"}, {}),
    "llama tied, epsilon 1e-3": ("llama", {"tie_word_embeddings": True, "rms_norm_eps": 1e-3}, {}),
    "llama vocabulary of 255": ("llama", {"vocab_size": 255}, {}),
    "llama one layer": ("llama", {"num_hidden_layers": 1}, {}),
    "llama pretraining_tp 2": ("llama", {}, {"pretraining_tp": 2}),
    "llama rope_theta an integer": ("llama", {}, {"rope_parameters": None, "rope_theta": 500000}),
    "llama rope llama3": (
        "llama",
        _rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64),
        {},
    ),
    "llama rope linear": ("llama", _rope("linear", factor=4.0), {}),
    "llama rope linear, old spelling": ("llama", {}, _old_rope("linear", factor=4.0)),
    "llama rope dynamic, old spelling": ("llama", {}, _old_rope("dynamic", factor=4.0)),
    "llama rope yarn, mscale": (
        "llama",
        _rope("yarn", factor=8.0, original_max_position_embeddings=64, mscale=1.0, mscale_all_dim=0.5),
        {},
    ),
    "llama rope yarn, betas": (
        "llama",
        _rope("yarn", factor=8.0, original_max_position_embeddings=64, beta_fast=16.0, beta_slow=2.0),
        {},
    ),
    "llama rope yarn, old spelling": (
        "llama",
        {},
        _old_rope("yarn", factor=8.0, original_max_position_embeddings=64, attention_factor=1.1),
    ),
    "llama partial_rotary_factor": ("llama", {}, {"partial_rotary_factor": 0.5}),
    "llama sliding_window left over": ("llama", {}, {"sliding_window": _WINDOW}),
    "llama layer_types left over": ("llama", {}, {"layer_types": _MIXED, "sliding_window": _WINDOW}),
    "llama logit_scale left over": ("llama", {}, {"logit_scale": 0.1, "final_logit_softcapping": 2.0}),
    "llama embedding_multiplier left over": ("llama", {}, {"embedding_multiplier": 3.0, "residual_multiplier": 0.2}),
    "llama dtype bfloat16": ("llama", {}, {"dtype": "bfloat16"}),
    "llama is_decoder false": ("llama", {}, {"is_decoder": False, "is_causal": False}),
    "mistral window": ("mistral", {"sliding_window": _WINDOW}, {}),
    "mistral window beyond the context": ("mistral", {"sliding_window": 4096}, {}),
    "mistral mixed windows": ("mistral", {"sliding_window": _WINDOW, "layer_types": _MIXED}, {}),
    "mistral window, rope linear": ("mistral", {"sliding_window": _WINDOW, **_rope("linear", factor=2.0)}, {}),
    "qwen2 windows of upper layers": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": _WINDOW, "max_window_layers": 1},
        {},
    ),
    "qwen2 windows off": ("qwen2", {"use_sliding_window": False, "sliding_window": _WINDOW}, {}),
    "qwen2 rope yarn, attention_factor": (
        "qwen2",
        _rope("yarn", factor=4.0, original_max_position_embeddings=64, attention_factor=0.9),
        {},
    ),
    "qwen3 attention_bias, window": (
        "qwen3",
        {"head_dim": 16, "attention_bias": True, "use_sliding_window": True, "sliding_window": _WINDOW}
        | {"max_window_layers": 0},
        {},
    ),
    "qwen3_moe weights not normalized": (
        "qwen3_moe",
        {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
        | {"norm_topk_prob": False},
        {},
    ),
    "qwen3_moe every second layer dense": (
        "qwen3_moe",
        {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
        | {"decoder_sparse_step": 2},
        {},
    ),
    "qwen2_moe first layer dense": (
        "qwen2_moe",
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
        | {"shared_expert_intermediate_size": 48, "mlp_only_layers": [0]},
        {},
    ),
    "mixtral one of eight experts": ("mixtral", {"num_local_experts": 8, "num_experts_per_tok": 1}, {}),
    "mixtral window": (
        "mixtral",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": _WINDOW},
        {},
    ),
    "gemma exact gelu": ("gemma", {"head_dim": 16, "hidden_act": "gelu"}, {}),
    "gemma one key head": ("gemma", {"head_dim": 32, "num_key_value_heads": 1}, {}),
    "gemma2 without soft caps": (
        "gemma2",
        {"head_dim": 16, "attn_logit_softcapping": None, "final_logit_softcapping": None, "sliding_window": _WINDOW},
        {},
    ),
    "gemma2 all layers full": (
        "gemma2",
        {"head_dim": 16, "sliding_window": _WINDOW, "layer_types": ["full_attention"] * 2},
        {},
    ),
    "gemma2 query_pre_attn_scalar 144": ("gemma2", {"head_dim": 16, "query_pre_attn_scalar": 144}, {}),
    "gemma3 query_pre_attn_scalar 168": ("gemma3_text", {**_GEMMA3, "query_pre_attn_scalar": 168}, {}),
    "gemma3 rope linear, old spelling": (
        "gemma3_text",
        _GEMMA3,
        {"rope_parameters": None, "rope_theta": 1e6, "rope_local_base_freq": 1e4}
        | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    ),
    "gemma3 sliding_window_pattern": (
        "gemma3_text",
        {**_GEMMA3, "num_hidden_layers": 3, "layer_types": None},
        {"layer_types": None, "sliding_window_pattern": 3},
    ),
    "gemma3 soft caps": (
        "gemma3_text",
        {**_GEMMA3, "final_logit_softcapping": 4.0, "attn_logit_softcapping": 8.0},
        {},
    ),
    "gemma3 bidirectional": ("gemma3_text", {**_GEMMA3, "use_bidirectional_attention": True}, {}),
    "gemma3 base model": ("gemma3_text", _GEMMA3, {"architectures": ["Gemma3TextModel"]}),
    "phi qk_layernorm": ("phi", {"qk_layernorm": True}, {}),
    "phi partial_rotary_factor 0.25": ("phi", {"partial_rotary_factor": 0.25}, {}),
    "phi3 longrope beyond its switch": (
        "phi3",
        {},
        {"rope_parameters": None, "rope_theta": 1e4, "original_max_position_embeddings": 64}
        | {"rope_scaling": {"type": "longrope", **_LONGROPE}},
    ),
    "phi3 longrope before its switch": (
        "phi3",
        {},
        {"rope_parameters": None, "rope_theta": 1e4, "original_max_position_embeddings": 256}
        | {"rope_scaling": {"type": "longrope", **_LONGROPE}},
    ),
    "phi3 window": ("phi3", {"sliding_window": _WINDOW}, {}),
    "gpt2 other inner size, relu": ("gpt2", {"n_inner": 96, "activation_function": "relu"}, {}),
    "gpt2 untied": ("gpt2", {"tie_word_embeddings": False}, {}),
    "gpt2 scaled by layer": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, {}),
    "gpt_neox rotary_pct 1": ("gpt_neox", {"rotary_pct": 1.0}, {}),
    "gpt_neox in sequence": ("gpt_neox", {"use_parallel_residual": False}, {}),
    "gpt_neox without biases": ("gpt_neox", {"attention_bias": False}, {}),
    "gpt_neox stray key heads": ("gpt_neox", {}, {"num_key_value_heads": 1}),
    "bloom six heads": ("bloom", {"hidden_size": 96, "n_head": 6}, {}),
    "bloom residual after the norm": ("bloom", {"apply_residual_connection_post_layernorm": True}, {}),
    "bloom stray key heads": ("bloom", {}, {"num_key_value_heads": 2}),
    "opt gelu": ("opt", {"activation_function": "gelu"}, {}),
    "opt narrow embedding": ("opt", {"word_embed_proj_dim": 32}, {}),
    "opt norm after": ("opt", {"do_layer_norm_before": False}, {}),
    "opt without biases": ("opt", {"enable_bias": False}, {}),
    "granite multipliers": (
        "granite",
        {"embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.05}
        | {"logits_scaling": 8.0},
        {},
    ),
    "cohere logit_scale, norms of heads": ("cohere", {"logit_scale": 0.25, "use_qk_norm": True}, {}),
    "olmo clip_qkv": ("olmo", {"clip_qkv": 0.5}, {}),
    "olmo2 rope yarn": ("olmo2", _rope("yarn", factor=8.0, original_max_position_embeddings=64), {}),
    "stablelm parallel, norms of heads": ("stablelm", {"use_parallel_residual": True, "qk_layernorm": True}, {}),
    "stablelm biases, half rotation": ("stablelm", {"use_qkv_bias": True, "partial_rotary_factor": 0.5}, {}),
    "starcoder2 without biases, window": ("starcoder2", {"use_bias": False, "sliding_window": _WINDOW}, {}),
    "smollm3 layers without rotation": ("smollm3", {"no_rope_layers": [1, 0]}, {}),
    "smollm3 window": (
        "smollm3",
        {"use_sliding_window": True, "sliding_window": _WINDOW, "no_rope_layers": [1, 1]},
        {},
    ),
    "nemotron whole rotation": ("nemotron", {"partial_rotary_factor": 1.0}, {}),
    "nemotron stray window": ("nemotron", {}, {"sliding_window": _WINDOW}),
    "arcee biases": ("arcee", {"mlp_bias": True, "attention_bias": True}, {}),
}


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.configurations",
        description="Export tiny models with unusual values of config.json and compare them with transformers.",
    )
    parser.add_argument("--only", metavar="TEXT", default="", help="rows whose name has TEXT in it")
    add_common_options(parser)
    logging.disable(logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return run(parser, _command, argv)


def _command(args: argparse.Namespace) -> None:
    results: dict[str, str] = {}
    for name, case in CASES.items():
        if args.only not in name:
            continue
        with tempfile.TemporaryDirectory() as directory:
            results[name] = _result(Path(directory), *case)
        if not args.json:
            print(f"| {name} | {results[name]} |", flush=True)
    wrong = [name for name, result in results.items() if result.startswith("WRONG")]
    if args.json:
        print(json.dumps(results))
    else:
        print(f"{len(results)} configurations, {len(wrong)} wrong")
    if wrong:
        raise DualBinaryError(f"exported as another model without a word: {', '.join(wrong)}")


def _result(directory: Path, model_type: str, values: dict[str, Any], written: dict[str, Any]) -> str:
    model_dir, out = directory / "model", directory / "out" / "model.onnx"
    _write_model(model_dir, model_type, values)
    path = model_dir / "config.json"
    config = json.loads(path.read_text()) | written
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    try:
        export(model_dir, out, ExportOptions(embedding_bits=32, logits="all"))
    except DualBinaryError as error:
        return f"refused: {str(error).replace(str(directory), '')}"
    except Exception as error:  # a traceback for the user
        return f"WRONG: {type(error).__name__}: {error}"
    try:
        worst = max(_errors(model_dir, out))
    except Exception as error:  # whatever a wrong graph ends in
        return f"WRONG: {type(error).__name__}: {error}"
    return f"{'equal' if worst <= TOLERANCE else 'WRONG'} ({worst:.0e})"


def _write_model(directory: Path, model_type: str, values: dict[str, Any]) -> None:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **{**_OWN_BASE.get(model_type, _BASE), **values})
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randint(-8, 8, parameter.shape) / 64)
            else:
                parameter.add_(0.1 * torch.randn(parameter.shape))
        model.tie_weights()
    model.save_pretrained(directory)


def _errors(model_dir: Path, out: Path) -> Iterator[float]:
    """Largest errors of a prompt, of cached steps, and of the same tokens after padding, over the largest logit."""
    ids = np.random.default_rng(1).integers(3, 250, (1, TOKENS + STEPS))
    model = transformers.AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.inference_mode():
        expected = model.eval()(torch.from_numpy(ids)).logits[0].numpy()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    runtime_ext.register(options)
    session = ort.InferenceSession(str(out), options, providers=["CPUExecutionProvider"])
    padded = np.concatenate([np.zeros((1, PADDING), np.int64), ids], axis=1)
    for row, padding in ((ids, 0), (padded, PADDING)):
        past: dict[str, np.ndarray] = {}
        begin = 0
        for end in range(padding + TOKENS, row.shape[1] + 1):
            mask = np.ones((1, end), np.int64)
            mask[0, :padding] = 0
            found, past = _step(session, row[:, begin:end], mask, past)
            part = found[0, padding if begin == 0 else 0 :]
            right = expected[max(begin - padding, 0) : end - padding]
            error = float(np.abs(part - right).max() / np.abs(expected).max())
            yield error if np.isfinite(error) else float("inf")
            begin = end


def _step(
    session: ort.InferenceSession, ids: np.ndarray, mask: np.ndarray, past: dict[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    carried = cache_tensors(session)
    empty = {tensor.past: tensor.zeros(0) for tensor in carried}
    feeds: dict[str, np.ndarray] = {"input_ids": ids, "attention_mask": mask, **empty, **past}
    if any(value.name == "position_ids" for value in session.get_inputs()):
        feeds["position_ids"] = np.maximum(mask.cumsum(1) - 1, 0)[:, -ids.shape[1] :]
    names = [value.name for value in session.get_outputs()]
    outputs = dict(zip(names, map(np.asarray, session.run(None, feeds)), strict=True))
    return outputs["logits"], {tensor.past: outputs[tensor.present] for tensor in carried}


if __name__ == "__main__":
    raise SystemExit(main())
