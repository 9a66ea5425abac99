"""A tiny random Llama with a tokenizer of bytes, as a directory that the runtime's commands accept.

It has no DualBinaryMatMul: the tests of runtime, benchmarks, studies and e2e use it for the loop around the session.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import mobius
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig

CONTEXT_LENGTH = 64
BYTES = 256
END, USER, ASSISTANT = "<end>", "<user>", "<assistant>"
SPECIAL_TOKENS = (END, USER, ASSISTANT)
# mobius lowers attention to GroupQueryAttention, whose cache can be shared, for one provider of each type, and leaves
# it to Attention, whose cache grows, for "default". The CPU provider of ONNX Runtime runs them all.
GROUP_QUERY_PROVIDER = {"f32": "cpu", "f16": "cuda"}
CHAT_TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}<assistant>"


def make_weights(directory: Path) -> Path:
    """A Hugging Face directory: two layers, grouped-query attention, weights from a fixed seed."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=BYTES + len(SPECIAL_TOKENS),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
        initializer_range=0.2,  # ten times the usual, so that the likeliest token stands out from rounding
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return directory


def make_model(weights: Path, directory: Path, dtype: str = "f32", share_buffer: bool = True) -> Path:
    """Export `weights` and write the files beside it; the cache grows unless `share_buffer`. Returns the ONNX file."""
    provider = GROUP_QUERY_PROVIDER[dtype] if share_buffer else "default"
    package = mobius.build(str(weights), dtype=dtype, execution_provider=provider)
    package.save(str(directory), progress_bar=False)
    make_tokenizer().save(str(directory / "tokenizer.json"))
    write_json(directory / "tokenizer_config.json", {"eos_token": END, "chat_template": CHAT_TEMPLATE})
    write_json(
        directory / "genai_config.json",
        {
            "model": {"context_length": CONTEXT_LENGTH, "eos_token_id": BYTES},
            "search": {"past_present_share_buffer": share_buffer},
        },
    )
    return directory / "model.onnx"


def make_tokenizer(special: Sequence[str] = SPECIAL_TOKENS) -> Tokenizer:
    """One token for each byte, then the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
