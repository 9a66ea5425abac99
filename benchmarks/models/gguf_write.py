"""Write a Llama's Hugging Face directory as a GGUF file in float16, the input of llama.cpp's quantizer.

    python -m benchmarks.models.gguf_write MODEL_DIR OUT.gguf

The file has no tokenizer: benchmarks feed token ids.
"""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors import safe_open

__all__ = ["add_settings", "gguf_name", "write_gguf"]

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(model_dir: Path, path: Path) -> None:
    """Write the file with one tensor in memory at a time."""
    config = json.loads((model_dir / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    add_settings(writer, config)
    for name, tensor in _tensors(model_dir):
        array = _array(name, tensor, config)
        writer.add_tensor_info(gguf_name(name), array.shape, array.dtype, array.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, tensor in _tensors(model_dir):
        writer.write_tensor_data(_array(name, tensor, config))
    writer.close()


def add_settings(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    """Add what llama.cpp must know of a Llama, from the values of its config.json."""
    heads = config["num_attention_heads"]
    rotary = config.get("rope_parameters") or config
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_rope_freq_base(rotary.get("rope_theta", 10000.0))
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("none")


def _tensors(model_dir: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for file in sorted(model_dir.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (it is no dict, and cannot be iterated over)
                yield name, tensors.get_tensor(name)


def gguf_name(name: str) -> str:
    """Name a tensor of transformers as llama.cpp does."""
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
    if match:
        return f"blk.{match[1]}.{_NAMES[match[2]]}.weight"
    return f"{_NAMES[name.removesuffix('.weight')]}.weight"


def _array(name: str, tensor: torch.Tensor, config: dict[str, Any]) -> np.ndarray:
    """Convert matrices to float16, vectors to float32; llama.cpp rotates neighbors, Hugging Face halves of a head."""
    for projection, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
        if projection in name:
            tensor = tensor.unflatten(0, (config[heads], 2, -1)).transpose(1, 2).flatten(0, 2)
    return tensor.to(torch.float16 if tensor.ndim > 1 else torch.float32).contiguous().numpy()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models.gguf_write", description="Write a GGUF file.")
    parser.add_argument("model_dir", type=Path, metavar="MODEL_DIR", help="of a Llama")
    parser.add_argument("out", type=Path, metavar="OUT.gguf")
    args = parser.parse_args()
    write_gguf(args.model_dir, args.out)
