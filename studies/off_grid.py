"""The same model, its weights on no grid: what forms do to an ordinary model, asked of one that was quantized before.

    python -m studies.off_grid MODEL_DIR OUT_DIR [--spread 0.35] [--fold-gains] [--seed 0] [--json]

A model that comes from a file of four bits lies on a grid that some forms hold exactly, and says nothing of them. This
writes the model in other numbers: positive factors move between a layer and the one before it, channel by channel,

    norm gain g[k] / f[k]              columns k of q, k, v, or of gate and up, times f[k]
    row c of v, or of up, times f[c]   columns c of o, or of down, over f[c]

which changes no function and no rotation of positions. Values of a group are then 32 different numbers times a grid.
Logarithms of factors are uniform within +-SPREAD: much wider, and the columns of a group differ more than training
made them; much narrower, and the grid still shows. `--fold-gains` takes the gains themselves for f, and gains become 1.

The command counts the layers that are still exact in a small form, and compares logits with those of MODEL_DIR.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from dualbinary import InputError
from dualbinary.cli.console import add_common_options, run
from dualbinary.fitting.exact import exact_form

__all__ = ["CHECKED_TOKENS", "main", "open_model", "take_off_grid"]

# Which norm is before attention and which before the MLP, and what a gain is beyond the stored weight.
NORMS = {
    "llama": ("input_layernorm", "post_attention_layernorm", 0),
    "gemma3_text": ("input_layernorm", "pre_feedforward_layernorm", 1),
}
CHECKED_TOKENS = 64


def take_off_grid(model: Any, spread: float, fold_gains: bool, seed: int) -> None:
    """Rewrite a float32 model of a type in NORMS in place; see the module's docstring."""
    attention, mlp, base = NORMS[model.config.model_type]
    generator = torch.Generator().manual_seed(seed)

    def factors(count: int) -> Tensor:
        return torch.exp(spread * (2 * torch.rand(count, generator=generator, dtype=torch.float64) - 1))

    for block in model.model.layers:
        heads, feed = block.self_attn, block.mlp
        readers = {attention: (heads.q_proj, heads.k_proj, heads.v_proj), mlp: (feed.gate_proj, feed.up_proj)}
        for name, layers in readers.items():
            norm = getattr(block, name)
            gain = norm.weight.double() + base
            factor = gain if fold_gains else factors(len(gain))
            norm.weight.copy_(gain / factor - base)
            for layer in layers:
                layer.weight.copy_(layer.weight.double() * factor)
        # Some query heads read one head of v.
        size, shared = heads.head_dim, heads.num_key_value_groups
        factor = factors(heads.v_proj.out_features)
        columns = factor.reshape(-1, size).repeat_interleave(shared, dim=0).flatten()
        _move(heads.v_proj, factor, heads.o_proj, columns)
        factor = factors(feed.up_proj.out_features)
        _move(feed.up_proj, factor, feed.down_proj, factor)


def _move(first: nn.Linear, rows: Tensor, second: nn.Linear, columns: Tensor) -> None:
    """Multiply the outputs of `first` by `rows`, and divide the inputs of `second` by `columns`."""
    first.weight.copy_(first.weight.double() * rows[:, None])
    if first.bias is not None:
        first.bias.copy_(first.bias.double() * rows)
    second.weight.copy_(second.weight.double() / columns)


def _linears(model: Any) -> Iterator[np.ndarray]:
    head = model.get_output_embeddings()
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not head:
            yield module.weight.numpy()


def open_model(model_dir: Path, out_dir: Path, types: tuple[str, ...]) -> Any:
    """A float32 model of one of `types`, to be written to `out_dir` in another form. Raises InputError."""
    if not (model_dir / "config.json").is_file():
        raise InputError(f"{model_dir}: no config.json; expected a Hugging Face directory")
    if out_dir.exists():
        raise InputError(f"{out_dir} exists; name a directory that does not")
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    if model.config.model_type not in types:
        raise InputError(f"{model_dir}: expected a model of type {' or '.join(types)}, got {model.config.model_type}")
    return model


@torch.inference_mode()
def _command(args: argparse.Namespace) -> None:
    model = open_model(args.model_dir, args.out_dir, tuple(NORMS))
    tokens = torch.randint(0, model.config.vocab_size, (1, CHECKED_TOKENS), generator=torch.Generator().manual_seed(0))
    before = model(tokens, use_cache=False).logits
    take_off_grid(model, args.spread, args.fold_gains, args.seed)
    difference = model(tokens, use_cache=False).logits - before
    layers = list(_linears(model))
    forms = [exact_form(lambda weight=weight: [weight], "float32") for weight in layers]
    facts = {
        "layers": len(layers),
        "exact_layers": sum(form is not None for form in forms),
        "logits_error": float(difference.norm() / before.norm()),
    }
    model.save_pretrained(args.out_dir)
    for file in args.model_dir.glob("*token*.json"):
        shutil.copy(file, args.out_dir)
    if args.json:
        print(json.dumps(facts))
        return
    print(
        f"{facts['layers']} layers, {facts['exact_layers']} of them still exact in a small form; "
        f"logits differ by {facts['logits_error']:.1e} of their norm"
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.off_grid", description="Write the same model with weights that lie on no grid."
    )
    parser.add_argument("model_dir", type=Path, metavar="MODEL_DIR")
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="a directory that does not exist")
    parser.add_argument("--spread", type=float, default=0.35, metavar="S", help="of factors' logarithms; default 0.35")
    parser.add_argument("--fold-gains", action="store_true", help="fold the gains of norms into the layers after them")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the factors; default 0")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    raise SystemExit(main())
