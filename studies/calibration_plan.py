"""Time, memory and disk of calibration for the usual model sizes, as `python -m calib --plan` computes them.

    python -m studies.calibration_plan [--preset fast] [--tflops 300] [--bandwidth 3000] [--length 2048]

The table in docs/howto/calibrate.md is its output. Rates are those that a device sustains, not its data sheet's.
"""

import argparse
import json
import sys

from calib.machine import Machine
from calib.plan import plan
from calib.plan_shapes import Shapes
from calib.presets import DEFAULTS, PRESETS, preset
from dualbinary.cli.console import add_common_options, run

__all__ = ["MODELS"]


def llama(hidden: int, intermediate: int, blocks: int, vocabulary: int, key_value: int) -> Shapes:
    """Return the shapes of a Llama; `key_value` is the width of keys, and of values."""
    attention = ((hidden, hidden), (key_value, hidden), (key_value, hidden), (hidden, hidden))
    block = (*attention, (intermediate, hidden), (intermediate, hidden), (hidden, intermediate))
    weights = blocks * sum(N * K for N, K in block)
    return Shapes(hidden, vocabulary, weights + 2 * vocabulary * hidden, (block,) * blocks)


MODELS = {
    "1.1B": llama(2048, 5632, 22, 32000, 256),
    "7B": llama(4096, 11008, 32, 32000, 4096),
    "13B": llama(5120, 13824, 40, 32000, 5120),
    "70B": llama(8192, 28672, 80, 32000, 1024),
}


def _command(args: argparse.Namespace) -> None:
    machine = Machine(f"{args.tflops:g} TFLOP/s", args.tflops * 1e12, args.bandwidth * 1e9)
    config = preset(args.preset)
    data = config.data.model_copy(update={"length": args.length})
    e2e = config.e2e.model_copy(update={"gradient_checkpointing": True})
    config = config.model_copy(update={"data": data, "e2e": e2e})
    plans = [plan(name, shapes, config, machine) for name, shapes in MODELS.items()]
    if args.json:
        print(json.dumps([one.to_json() for one in plans]))
        return
    print("| model | stage | tokens | minutes | memory GB | disk GB |\n| --- | --- | ---: | ---: | ---: | ---: |")
    for one in plans:
        for name, stage in one.stages.items():
            figures = f"{stage.seconds / 60:.1f} | {stage.memory / 1e9:.1f} | {stage.disk / 1e9:.1f}"
            print(f"| {one.name} | {name} | {stage.tokens:,} | {figures} |")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.calibration_plan",
        description="Time, memory and disk of calibration for the usual model sizes.",
    )
    parser.add_argument("--preset", choices=PRESETS, default=DEFAULTS["fdb"])
    parser.add_argument("--tflops", type=float, default=300, help="sustained, of matrix products (default 300)")
    parser.add_argument("--bandwidth", type=float, default=3000, help="of memory, GB/s (default 3000)")
    parser.add_argument("--length", type=int, default=2048, help="tokens in a window (default 2048)")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
