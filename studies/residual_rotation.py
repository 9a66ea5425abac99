"""The same model in a rotated basis that costs nothing where it runs: does it take fewer bits?

    python -m studies.residual_rotation MODEL_DIR OUT_DIR [--block B] [--gains-alone] [--no-heads] [--seed 0] [--json]

Where norms divide by a root mean square, the hidden states between layers may be in any orthogonal basis x' = R x:
QuaRot (arXiv 2404.00456) and SliceGPT (arXiv 2401.15024) put R into the weights. This writes such a model,

    gains g of norms before layers    1, and columns k of q, k, v or of gate and up times g[k]
    what reads x                      W R^T
    what adds to x (o, down)          R W
    embedding, head                   E R^T, H diag(g) R^T, no longer one table

and, as values of a head are mixed over tokens alone, R_h v for each head of v with columns of o to match. R is a block
diagonal of normalized Walsh-Hadamard matrices times random signs, in blocks of the largest power of two that divides
the width, up to B; `--gains-alone` leaves R out and folds the gains, for comparison.

`python -m calib OUT_DIR ...` then quantizes weights whose large values are spread over their block. A product would
keep embedding, last norm and head as they are, with a transform behind the embedding and one before the last norm.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dualbinary.cli.console import add_common_options, run
from dualbinary.contract.rotation import Rotation, random_rotation
from studies.off_grid import CHECKED_TOKENS, open_model

__all__ = ["TYPES", "main", "rotate_residual"]

TYPES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
"""Model types whose blocks are those of Llama, with a norm before attention and one before the MLP and no other."""


def rotate_residual(model: Any, rotation: Rotation | None, of_heads: Rotation | None) -> None:
    """Rewrite a float32 model of a type in TYPES, with a head of its own, in place; see the module's docstring."""
    core = model.model
    _read_rotated(model.lm_head, _take_gain(core.norm), rotation)
    _read_rotated(core.embed_tokens, None, rotation)
    for block in core.layers:
        heads, feed = block.self_attn, block.mlp
        gain = _take_gain(block.input_layernorm)
        for layer in (heads.q_proj, heads.k_proj, heads.v_proj):
            _read_rotated(layer, gain, rotation)
        gain = _take_gain(block.post_attention_layernorm)
        for layer in (feed.gate_proj, feed.up_proj):
            _read_rotated(layer, gain, rotation)
        for layer in (heads.o_proj, feed.down_proj):
            _write_rotated(layer, rotation)
        if of_heads is not None:
            _write_rotated(heads.v_proj, of_heads)
            _read_rotated(heads.o_proj, None, of_heads)


def _take_gain(norm: Any) -> Tensor:
    gain = norm.weight.double()
    norm.weight.fill_(1)
    return gain


def _read_rotated(layer: Any, gain: Tensor | None, rotation: Rotation | None) -> None:
    """Let the rows of a weight, which multiply g x, multiply R x."""
    weight = layer.weight.double() * (1 if gain is None else gain)
    layer.weight.copy_(weight if rotation is None else _rotated(weight, rotation))


def _write_rotated(layer: nn.Linear, rotation: Rotation | None) -> None:
    """Let a layer give R y, block by block of its outputs, for y."""
    if rotation is None:
        return
    layer.weight.copy_(_rotated(layer.weight.T, rotation).T)
    if layer.bias is not None:
        layer.bias.copy_(_rotated(layer.bias[None], rotation)[0])


def _rotated(rows: Tensor, rotation: Rotation) -> Tensor:
    """R of rows [N, K], where K is a multiple of the rotation's width: of each part of that width the same."""
    parts = rows.reshape(-1, len(rotation.signs)).numpy()
    return torch.from_numpy(np.asarray(rotation.rotated(parts))).reshape(rows.shape)


@torch.inference_mode()
def _command(args: argparse.Namespace) -> None:
    model = open_model(args.model_dir, args.out_dir, TYPES)
    config: Any = model.config
    tokens = torch.randint(0, config.vocab_size, (1, CHECKED_TOKENS), generator=torch.Generator().manual_seed(0))
    before = model(tokens, use_cache=False).logits
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.clone(), requires_grad=False)
    config.tie_word_embeddings = False
    of_stream = of_heads = None
    if not args.gains_alone:
        of_stream = random_rotation(config.hidden_size, args.block, args.seed)
        size = model.model.layers[0].self_attn.head_dim
        of_heads = random_rotation(size, args.block, args.seed) if args.heads else None
    rotate_residual(model, of_stream, of_heads)
    difference = model(tokens, use_cache=False).logits - before
    facts = {
        "block": of_stream and of_stream.block_size,
        "head_block": of_heads and of_heads.block_size,
        "logits_error": float(difference.norm() / before.norm()),
    }
    model.save_pretrained(args.out_dir)
    for file in (*args.model_dir.glob("*token*.json"), *args.model_dir.glob("*.jinja")):
        shutil.copy(file, args.out_dir)
    if args.json:
        print(json.dumps(facts))
        return
    words = [f"{name} {facts[key] or 'none'}" for name, key in (("block", "block"), ("of heads", "head_block"))]
    print(f"{', '.join(words)}; logits differ by {facts['logits_error']:.1e} of their norm")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.residual_rotation", description="Write the same model in a rotated basis."
    )
    parser.add_argument("model_dir", type=Path, metavar="MODEL_DIR")
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="a directory that does not exist")
    parser.add_argument("--block", type=int, default=1 << 12, metavar="B", help="largest block; default 4096")
    parser.add_argument("--gains-alone", action="store_true", help="fold the gains of norms and rotate nothing")
    parser.add_argument("--no-heads", dest="heads", action="store_false", help="leave the values of heads as they are")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the signs; default 0")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    raise SystemExit(main())
