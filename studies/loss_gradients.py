"""Size of each loss of distillation at a checkpoint, and direction of its gradient beside that of KL.

    python -m studies.loss_gradients MODEL_DIR CHECKPOINT --generated FILE [--windows 3]

FILE is OUT_DIR.generated.safetensors of a run with --generate. Prints for each loss alone, over the first windows: its
mean, the norm of the gradient of all scales, and the cosine of that with the gradient of KL. Then for the plain squares
of QBB (NeurIPS 2024): the share of the logits' square that shifts all logits of a token alike, and the
shares of the features' square that are the first token's and, of the others', the last three blocks'.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from calib.data.generate import load_windows
from calib.layers import full_precision
from calib.loss_weights import LossWeights
from calib.losses import logit_error
from calib.models.blocks import autocast, choose_attention, compute_dtype, outputs_visited
from calib.models.head import head_of
from calib.models.source import SourceModel
from calib.models.stored_checkpoint import StoredCheckpoint
from calib.stages.objective import DistillationObjective
from dualbinary import InputError
from dualbinary.cli.console import add_common_options, run

LOSSES = {
    "kl": LossWeights(),
    "ce": LossWeights(kl=0, ce=1),
    "mse": LossWeights(kl=0, mse=1),
    "mse, its shift too": LossWeights(kl=0, mse=1, mse_shift=True),
    "features": LossWeights(kl=0, features=1),
}
LAST_BLOCKS = 3


def gradients(source: SourceModel, windows: Tensor, dtype: torch.dtype) -> list[dict[str, Any]]:
    """Compute for each loss its name, mean, norm of the gradient, and cosine with KL's."""
    source.model.requires_grad_(requires_grad=False)
    layers = [layer for layer in source.linears.values() if layer.quantized]
    result: list[dict[str, Any]] = []
    of_kl: Tensor | None = None
    for name, weights in LOSSES.items():
        for layer in layers:
            layer.scales.grad = None
            layer.scales.requires_grad_()
        passes = DistillationObjective(source, weights, "cpu", dtype)
        losses = [passes.losses(window[None], factor=1 / len(windows))["loss"] for window in windows]
        found = torch.cat([layer.scales.grad.flatten() for layer in layers if layer.scales.grad is not None])
        of_kl = found if of_kl is None else of_kl
        cosine = functional.cosine_similarity(found.double(), of_kl.double(), dim=0)
        mean = sum(losses) / len(losses)
        result.append({"name": name, "loss": mean, "norm": found.norm().item(), "cosine": cosine.item()})
    return result


@torch.no_grad()
def plain_squares(source: SourceModel, windows: Tensor, dtype: torch.dtype) -> dict[str, float]:
    """Compute shares of the plain squares: "shift" of the logits', "first_token" and "last_blocks" of the features'."""
    head, _ = head_of(source.model, "cpu", dtype)
    blocks = [block for _, block in source.blocks]
    sums = torch.zeros(5, dtype=torch.float64)
    for window in windows:
        seen: list[Tensor] = []

        def keep(_: int, hidden: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(hidden[0].float())
            return hidden

        with autocast("cpu", dtype), outputs_visited(blocks, keep):
            student = source.model.base_model(input_ids=window[None], use_cache=False).last_hidden_state[0]
            with full_precision(source.model):
                teacher = source.model.base_model(input_ids=window[None], use_cache=False).last_hidden_state[0]
        logits = head(teacher), head(student)
        whole, centered = (logit_error(*logits, shift=shift).sum() for shift in (True, False))
        half = len(blocks)
        squares = torch.stack([(s - t).square().sum(1) for s, t in zip(seen[:half], seen[half:], strict=True)])
        first, rest = squares[:, 0].sum(), squares[:, 1:].sum()
        sums += torch.stack([whole, whole - centered, first, rest, squares[-LAST_BLOCKS:, 1:].sum()])
    whole, shift, first, rest, last = sums.tolist()
    return {"shift": shift / whole, "first_token": first / (first + rest), "last_blocks": last / rest}


def _command(args: argparse.Namespace) -> None:
    checkpoint = StoredCheckpoint(args.checkpoint)
    source = SourceModel(args.model_dir, checkpoint.format)
    vocabulary = source.vocabulary
    windows = load_windows(args.generated, args.length, vocabulary)[: args.windows].long()
    if args.windows < 1:
        raise InputError(f"--windows {args.windows}: expected at least 1")
    dtype = compute_dtype("auto", "cpu")
    choose_attention(source, "cpu", args.length)
    source.load(source.model, linear_dtype=dtype)
    checkpoint.apply(source)
    rows, shares = gradients(source, windows, dtype), plain_squares(source, windows, dtype)
    if args.json:
        print(json.dumps({"losses": rows, "plain_squares": shares}))
        return
    for row in rows:
        print(f"| {row['name']} | {row['loss']:.3f} | {row['norm']:.2f} | {row['cosine']:.2f} |")
    print(", ".join(f"{name} {share:.2f}" for name, share in shares.items()))


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.loss_gradients",
        description="Size and gradient of each loss of distillation at a checkpoint.",
    )
    parser.add_argument("model_dir", type=Path, metavar="MODEL_DIR")
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="where distillation would begin")
    parser.add_argument("--generated", type=Path, required=True, metavar="FILE", help="sequences that the model wrote")
    parser.add_argument("--windows", type=int, default=3, metavar="N", help="the first N of them (default 3)")
    parser.add_argument("--length", type=int, default=512, metavar="T", help="tokens in each (default 512)")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
