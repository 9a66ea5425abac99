#!/usr/bin/env bash
# transformers reads a GGUF file without the scaling of its rotary embeddings, without a warning.
#
# Software: transformers 5.23.0, gguf 0.19.0, accelerate 1.15.0, torch 2.13.0
# Input: a random Llama in float32, written with gguf's own writer and laid out as llama.cpp does (rows of queries and
#   keys interleaved): once as it is, once with linear scaling (llama.rope.scaling.type "linear", factor 4), once with
#   the factors of Llama 3 (the tensor rope_freqs.weight, as in files of Llama 3.1 and 3.2).
# Expected: from_pretrained(..., gguf_file=...) gives the model that was written, an error or a warning.
# Observed: the plain file is the model, to the bit. The other two are loaded with the frequencies of the plain one.
#   Nothing is logged at the default level.
#
# Output seen on 2026-11-28:
#   plain: read as default, frequencies as written True, unscaled True, logits off by 0.00 of the largest, 0 messages
#   linear: read as default, frequencies as written False, unscaled True, logits off by 1.17 of the largest, 0 messages
#   llama3: read as default, frequencies as written False, unscaled True, logits off by 1.46 of the largest, 0 messages
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 gguf==0.19.0 \
  accelerate==1.15.0 torch==2.13.0 numpy==2.4.6
cd "$work"
cat > run.py <<'PYTHON'
import logging
import warnings

import gguf
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

BLOCK = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
NAMES |= {f"model.layers.0.{ours}": f"blk.0.{theirs}" for ours, theirs in BLOCK.items()}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CASES = {"plain": {"rope_type": "default"}, "linear": {"rope_type": "linear", "factor": 4.0}, "llama3": LLAMA3}


def frequencies(model: torch.nn.Module) -> torch.Tensor:
    return model.model.rotary_emb.inv_freq


def write(path: str, model: torch.nn.Module, plain: torch.Tensor, kind: str) -> None:
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)
    if kind == "llama3":
        writer.add_tensor("rope_freqs.weight", (plain / frequencies(model)).numpy())
    for name, tensor in model.state_dict().items():
        layer = name.removesuffix(".weight")
        if layer.endswith(("q_proj", "k_proj")):
            halves = tensor.reshape(-1, 2, config.head_dim // 2, config.hidden_size)
            tensor = halves.transpose(1, 2).reshape(tensor.shape)
        writer.add_tensor(f"{NAMES[layer]}.weight", tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


messages: list[str] = []
handler = logging.Handler()
handler.emit = lambda record: messages.append(record.getMessage())
logging.getLogger("transformers").addHandler(handler)
shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4}
shape |= {"num_key_value_heads": 2, "vocab_size": 128, "max_position_embeddings": 128, "initializer_range": 0.2}
ids = torch.arange(100)[None]
plain, seen = None, {}
for kind, rope in CASES.items():
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**shape, rope_parameters={"rope_theta": 10000.0, **rope})).eval()
    plain = frequencies(model) if plain is None else plain
    write(f"{kind}.gguf", model, plain, kind)
    messages.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read = AutoModelForCausalLM.from_pretrained(".", gguf_file=f"{kind}.gguf").eval()
    with torch.no_grad():
        error = float((read(ids).logits - model(ids).logits).abs().max() / model(ids).logits.abs().max())
    scaled, unscaled = (torch.equal(frequencies(read), one) for one in (frequencies(model), plain))
    rope_type, said = read.config.rope_parameters["rope_type"], len(messages) + len(caught)
    print(f"{kind}: read as {rope_type}, frequencies as written {scaled}, unscaled {unscaled},", end=" ")
    print(f"logits off by {error:.2f} of the largest, {said} messages")
    seen[kind] = scaled, unscaled, error > 0.01, said
expected = {"plain": (True, True, False, 0), "linear": (False, True, True, 0), "llama3": (False, True, True, 0)}
raise SystemExit(0 if seen == expected else "the behavior has changed")
PYTHON
HF_HUB_OFFLINE=1 "$work/venv/bin/python" run.py
