"""Directories of Llamas of any size with random weights, to measure speed and memory."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

__all__ = ["TINY_LLAMA", "LlamaShape", "write_llama"]

_POOL = 1 << 22  # random numbers are drawn once and reused, each tensor beginning elsewhere
_SCALE = 0.02  # usual standard deviation of initial weights


@dataclass(frozen=True)
class LlamaShape:
    """Sizes of a Llama; `tied` makes the head the embedding's own tensor, `context` is that of config.json."""

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    heads: int
    kv_heads: int
    tied: bool = True
    context: int = 2048

    def config(self) -> dict[str, Any]:
        """Return the values of config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.context,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": self.tied,
        }

    def linears(self) -> dict[str, tuple[int, int]]:
        """Return the linear layers of a block: name to [N, K]."""
        kv = self.hidden // self.heads * self.kv_heads
        return {
            "self_attn.q_proj": (self.hidden, self.hidden),
            "self_attn.k_proj": (kv, self.hidden),
            "self_attn.v_proj": (kv, self.hidden),
            "self_attn.o_proj": (self.hidden, self.hidden),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
        }


TINY_LLAMA = LlamaShape(layers=22, hidden=2048, intermediate=5632, vocabulary=32000, heads=32, kv_heads=4, tied=False)
"""The shape of TinyLlama, 1.1 billion parameters."""


def write_llama(directory: Path, shape: LlamaShape) -> Path:
    """Write a model directory in bfloat16, one file for each layer, and return it; memory holds one layer."""
    directory.mkdir(parents=True)
    config = shape.config()
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    weight_map: dict[str, str] = {}
    for index, tensors in enumerate(_parts(shape)):
        file = f"model-{index:05d}.safetensors"
        save_file(tensors, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    content = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(content), encoding="utf-8")
    return directory


def _parts(shape: LlamaShape) -> Iterator[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    pool = (torch.randn(_POOL, generator=generator) * _SCALE).bfloat16()

    def weight(rows: int, columns: int) -> torch.Tensor:
        begin = int(torch.randint(_POOL, (), generator=generator))
        count = rows * columns
        return pool.roll(begin).repeat(-(-count // _POOL))[:count].view(rows, columns).clone()

    norm = torch.ones(shape.hidden).bfloat16()
    yield {"model.embed_tokens.weight": weight(shape.vocabulary, shape.hidden), "model.norm.weight": norm}
    if not shape.tied:
        yield {"lm_head.weight": weight(shape.vocabulary, shape.hidden)}
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}"
        tensors = {f"{prefix}.{name}.weight": weight(*size) for name, size in shape.linears().items()}
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}.{name}.weight"] = norm.clone()
        yield tensors
