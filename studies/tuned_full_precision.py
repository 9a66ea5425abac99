"""Gain of the training text alone: the full-precision model, tuned by cross entropy as a calibration's scales are.

    python -m studies.tuned_full_precision MODEL_DIR --text train.txt --test test.txt [--steps 300]

Every group of G weights gets one factor, which starts at 1 and learns at the rate at which scales learn, on the windows
that `python -m calib --generate 0` with the same --text, --length, --seed and steps distills on. So a row of a table
that was trained with cross entropy can be compared with a full-precision model: what both gain comes from the kind of
text.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from tqdm import trange

from calib.config import CalibConfig
from calib.data.collect import collect, first_windows, with_known_start
from calib.layers import QuantLinear
from calib.loss_weights import LossWeights
from calib.losses import chunk_size, sequence_loss
from calib.models.blocks import autocast, compute_dtype
from calib.models.head import head_of
from calib.models.source import SourceModel
from calib.presets import DEFAULTS, preset
from calib.schedule import learning_rate
from calib.stages.distill import BETAS
from dualbinary import InputError
from dualbinary.cli.console import add_common_options, run

CROSS_ENTROPY = LossWeights(kl=0, ce=1, dad=0)


class _GroupFactors(nn.Module):
    """Weights [N, K] times one factor for each group of G inputs."""

    def __init__(self, layer: QuantLinear) -> None:
        super().__init__()
        self.group_size = layer.format.group_size
        self.factors = nn.Parameter(torch.ones(layer.out_features, -(-layer.in_features // self.group_size)))

    def forward(self, weight: Tensor) -> Tensor:
        factors = self.factors.repeat_interleave(self.group_size, 1)[:, : weight.shape[1]]
        return weight * factors.to(weight.dtype)


class _Tuned:
    """A loaded model whose layers have factors, and the windows that it is tuned and measured on."""

    def __init__(self, source: SourceModel, dtype: torch.dtype) -> None:
        self.model, self.dtype = source.model, dtype
        source.load(self.model, linear_dtype=dtype)
        self.model.requires_grad_(requires_grad=False)
        self.head, vocabulary = head_of(self.model, "cpu", dtype)
        self.chunk = chunk_size(vocabulary)
        factors = [_GroupFactors(layer) for layer in source.linears.values()]
        for layer, own in zip(source.linears.values(), factors, strict=True):
            parametrize.register_parametrization(layer, "weight", own)
        self.factors = [own.factors for own in factors]

    def loss(self, window: Tensor, *, gradient: bool) -> float:
        """Compute the cross entropy of window int64 [T]; leaves its gradient in the factors if asked for."""
        with autocast("cpu", self.dtype), torch.set_grad_enabled(gradient):
            hidden = self.model.base_model(input_ids=window[None], use_cache=False).last_hidden_state[0]
        found = sequence_loss(hidden[:-1], None, window[1:], self.head, CROSS_ENTROPY, self.chunk, gradient=gradient)
        if found.gradient is not None:
            hidden[:-1].backward(found.gradient)
        return found.losses["ce"]

    def tune(self, windows: Tensor, rate: float, warmup: int) -> None:
        """Take one step for each of `windows` [steps, T]."""
        optimizer = torch.optim.Adam(self.factors, lr=0.0, betas=BETAS, eps=1e-12, foreach=True)
        for step in trange(len(windows), unit="step", disable=not sys.stderr.isatty()):
            optimizer.param_groups[0]["lr"] = rate * learning_rate(step, len(windows), warmup)
            self.loss(windows[step], gradient=True)
            optimizer.step()
            optimizer.zero_grad()

    def perplexity(self, windows: Tensor) -> float:
        """Measure the perplexity over `windows` [W, T], each by itself."""
        return math.exp(sum(self.loss(window, gradient=False) for window in windows) / len(windows))


def _command(args: argparse.Namespace) -> None:
    base = preset(DEFAULTS["fdb"]).to_json()
    base["data"] |= {"text": [str(path) for path in args.text], "length": args.length, "generate": 0}
    base["e2e"] |= {"steps": args.steps}
    config = CalibConfig.from_json({**base, "seed": args.seed}, "options")
    source = SourceModel(args.model_dir, config.format.plane_format)
    vocabulary = source.vocabulary
    config = with_known_start(config, args.model_dir, vocabulary)
    # A run takes windows for blockwise calibration and to hold out as well, so the same number is asked for.
    wanted = max(config.init.windows, config.block.windows, args.steps) + config.e2e.held_out
    windows, _ = collect(config.data, args.model_dir, wanted, vocabulary, args.seed, _no_generation)
    training = windows[: -config.e2e.held_out]
    if len(training) < args.steps:
        raise InputError(
            f"--text: expected a window for each of {args.steps} steps, got {len(training)} windows; lower --steps"
        )
    test = first_windows(args.model_dir, (str(args.test),), args.windows, args.length, vocabulary).long()
    tuned = _Tuned(source, compute_dtype("auto", "cpu"))
    before = tuned.perplexity(test)
    tuned.tune(training[: args.steps], config.e2e.scale_rate, config.e2e.warmup)
    result = {"steps": args.steps, "before": before, "after": tuned.perplexity(test)}
    gain = math.log(result["before"] / result["after"])
    shown = f"perplexity {before:.3f} -> {result['after']:.3f} after {args.steps} steps, {gain:.4f} nats per token"
    print(json.dumps(result) if args.json else shown)


def _no_generation(_: int) -> Tensor:
    raise InputError("--text: expected text, got none")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.tuned_full_precision",
        description="Tune the full-precision model by cross entropy as calibration tunes scales.",
    )
    parser.add_argument("model_dir", type=Path, metavar="MODEL_DIR")
    parser.add_argument("--text", type=Path, nargs="+", required=True, metavar="FILE", help="to tune on")
    parser.add_argument("--test", type=Path, required=True, metavar="FILE", help="to measure on")
    parser.add_argument("--steps", type=int, default=300, help="one window each (default 300)")
    parser.add_argument("--length", type=int, default=512, metavar="T", help="tokens in a window (default 512)")
    parser.add_argument("--windows", type=int, default=40, metavar="N", help="of --test (default 40)")
    parser.add_argument("--seed", type=int, default=0)
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
