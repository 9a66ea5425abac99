"""`python -m tools.gpu_calibrate MODEL_DIR OUT_DIR --text FILE ..`: the preset gpu in as many minutes as there are.

    OUT_DIR/blocks          the checkpoint after the stages init and block
    OUT_DIR/distilled       and after distillation, in as many steps as the time that is left has room for
    OUT_DIR/minutes.json    what took how long

A few steps are timed before their number is chosen; the schedule of rates depends on it. A checkpoint that is there is
not made again, and what was ended in between resumes: distillation with the steps that minutes.json has for it, so
remove that file to choose anew. The windows that choose the best state of distillation may be some that the first
checkpoint learned from. What follows `--` goes to calib: `-- --device cpu --length 64` tries this without a GPU.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from calib.presets import preset
from dualbinary import DualBinaryError, InputError
from dualbinary.cli.console import add_common_options, run
from dualbinary.files.atomic import write_text
from dualbinary.files.json_objects import read_json_object

__all__ = ["main", "steps_in"]

PRESET = "gpu"
TRIAL_STEPS = 12
RESERVE = 0.05  # of the time that is left, for steps that take longer than those that were timed


@dataclass(frozen=True)
class Pace:
    """Seconds of a run of distillation: of one step, of one measurement with its storing, and of all around them."""

    step: float
    measurement: float
    around: float


def steps_in(seconds: float, pace: Pace, every: int, most: int) -> int:
    """The number of steps, of at most `most`, that so many seconds have room for, with a measurement `every` few."""
    room = seconds * (1 - RESERVE) - pace.around - pace.measurement
    return max(0, min(most, int(room / (pace.step + pace.measurement / every))))


def calibrated(model: Path, out: Path, args: argparse.Namespace, *words: str) -> dict[str, Any]:
    """Run calib, and return its record. Ends this process with calib's exit code where it fails: it has said why."""
    command = [sys.executable, "-m", "calib", str(model), str(out), "--preset", PRESET, "--json", *words, *args.calib]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode < 0:
        raise DualBinaryError(f"calib was ended by signal {-done.returncode}; the same command goes on where it was")
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout)


def timed(blocks: Path, args: argparse.Namespace, text: list[str]) -> Pace:
    """Distil for a few steps, and throw the result away."""
    began = time.perf_counter()
    with TemporaryDirectory(dir=blocks.parent) as room:
        words = ["--start", str(blocks), "--stages", "e2e", "--e2e-steps", str(TRIAL_STEPS)]
        words += ["--e2e-evaluate-every", str(TRIAL_STEPS)]
        found = calibrated(args.model_dir, Path(room) / "trial", args, *words, *text)["e2e"]
    whole = time.perf_counter() - began
    times = [entry["seconds"] for entry in found["curve"][1:]]  # without the first step, which warms up
    step = median(after - before for before, after in pairwise(times))
    return Pace(step, max(found["seconds"] - times[-1], 0.0), max(whole - found["seconds"], 0.0))


def chosen(blocks: Path, args: argparse.Namespace, text: list[str], began: float) -> dict[str, Any]:
    """The number of steps for the time that is left, and the pace it follows from. DualBinaryError where it is 0."""
    pace = timed(blocks, args, text)
    left = args.minutes * 60 - (time.perf_counter() - began)
    e2e = preset(PRESET).e2e
    steps = steps_in(left, pace, e2e.evaluate_every, e2e.steps if args.steps is None else args.steps)
    if steps == 0:
        raise DualBinaryError(
            f"no time for a step of distillation: {left:.0f} seconds are left of {args.minutes:g} minutes; give more "
            f"--minutes. {blocks} is whole"
        )
    print(f"{steps} steps of {pace.step:.3f} s; {left:.0f} s are left", file=sys.stderr, flush=True)
    return {"pace": asdict(pace), "steps": steps}


def command(args: argparse.Namespace) -> None:
    """Make both checkpoints."""
    began = time.perf_counter()
    blocks, distilled, told = (args.out_dir / name for name in ("blocks", "distilled", "minutes.json"))
    if distilled.exists():
        raise InputError(f"{distilled}: is there already; give another OUT_DIR, or remove it")
    args.out_dir.mkdir(parents=True, exist_ok=True)
    text = ["--text", *args.text]
    if not blocks.exists():
        calibrated(args.model_dir, blocks, args, "--stages", "init,block", *text)
    if told.is_file():  # calib resumes with the same steps alone
        figures = read_json_object(told)
    else:
        figures = {"blocks_seconds": time.perf_counter() - began, **chosen(blocks, args, text, began)}
        write_text(told, json.dumps(figures, indent=1) + "\n")
    words = ["--start", str(blocks), "--stages", "e2e", "--e2e-steps", str(figures["steps"])]
    found = calibrated(args.model_dir, distilled, args, *words, *text)["e2e"]
    losses = {name: found[name] for name in ("first_loss", "best_loss", "best_step")}
    figures |= {**losses, "minutes": (time.perf_counter() - began) / 60}
    write_text(told, json.dumps(figures, indent=1) + "\n")
    if args.json:
        print(json.dumps(figures))
        return
    print(f"{distilled}: {figures['steps']} steps, {figures['minutes']:.1f} minutes")
    if found["best_loss"] is not None:
        print(f"held-out loss {found['first_loss']:.4f} -> {found['best_loss']:.4f}")


def minutes(text: str) -> float:
    """Minutes of an option."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"expected minutes above 0, got {text}")
    return value


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    words = sys.argv[1:] if argv is None else argv
    at = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(
        prog="python -m tools.gpu_calibrate",
        description="Calibrate a model by the preset gpu, in the minutes that there are.",
        epilog="What follows -- goes to calib.",
    )
    parser.add_argument("model_dir", type=Path, metavar="MODEL_DIR", help="full-precision model directory")
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="directory for both checkpoints")
    parser.add_argument("--text", nargs="+", required=True, metavar="FILE", help="as for calib")
    parser.add_argument("--minutes", type=minutes, default=10.0, metavar="M", help="for all of it (default 10)")
    parser.add_argument("--steps", type=int, metavar="N", help="steps of distillation at most (default: the preset's)")
    add_common_options(parser)
    parser.set_defaults(calib=words[at + 1 :])
    return run(parser, command, words[:at])


if __name__ == "__main__":
    sys.exit(main())
