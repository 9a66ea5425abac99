"""`python -m calib MODEL_DIR OUT_DIR`: train a Hugging Face model to about two bits per weight."""

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from dualbinary.checkpoint import read_quantization_config
from dualbinary.cli.console import add_common_options, interrupt_when_terminated, run, state_of
from dualbinary.cli.options import option, options_from
from dualbinary.files.documents import expand

__all__ = ["CommandOptions", "main"]

_EPILOG = """\
examples:
  python -m calib SmolLM2-135M smollm2-fdb --text 'books/*.txt'                 2.5 bits a weight
  python -m calib SmolLM2-135M smollm2-fdb --preset best --text text.jsonl
  python -m calib SmolLM2-135M smollm2-fdb                                     no text: the model writes its own
  python -m calib SmolLM2-135M smollm2-fdb --text a.txt --plan                 time, memory and disk, without starting
  accelerate launch --num_processes 4 -m calib Llama-3.2-1B llama-fdb --e2e-batch 4 --text ...

other commands:
  python -m calib report OUT_DIR       what a run did, layer by layer; --html makes a page with pictures
  python -m calib eval MODEL_DIR ...   perplexity and tasks of models, and how far they are from full precision

The same command continues a run that ended early, for whatever reason. OUT_DIR is for python -m exporter.
"""


@dataclass(frozen=True)
class CommandOptions:
    """Options of the command beside the configuration of a run."""

    plan: bool = option(False, help="say what the run takes in time, memory and disk, and stop", group="work")
    device: str | None = option(None, help="cpu, cuda, cuda:1, mps", shown="default: the best there is", metavar="NAME")
    fresh: bool = option(False, help="forget what an earlier run of this OUT_DIR got done")
    keep_work: bool = option(False, help="keep OUT_DIR.work when the run is done")
    quiet: bool = option(False, help="no progress bar")


def parser() -> argparse.ArgumentParser:
    """The command line of a run."""
    from calib.options import add_options

    result = argparse.ArgumentParser(
        prog="python -m calib",
        description="Train a Hugging Face language model to about two bits per weight.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("model_dir", type=Path, metavar="MODEL_DIR", help="full-precision model directory")
    result.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="directory to write; must not exist yet")
    add_options(result, CommandOptions)
    add_common_options(result)
    return result


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    interrupt_when_terminated()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["report"]:
        from calib.report.command import main as report

        return report(arguments[1:])
    if arguments[:1] == ["eval"]:
        from calib.evaluation.command import main as evaluate

        return evaluate(arguments[1:])
    return run(parser, _command, arguments, kept=_kept)


def _kept(args: argparse.Namespace) -> str:
    from calib.state import work_of

    if options_from(args, CommandOptions).plan or not work_of(args.out_dir).exists():
        return state_of(args.out_dir)
    return f"what is done is kept in {work_of(args.out_dir)}, and the same command goes on from there"


def _command(args: argparse.Namespace) -> None:
    from calib.options import config_from

    config, command = config_from(args), options_from(args, CommandOptions)
    read_quantization_config(args.model_dir)  # what is wrong is said before PyTorch is loaded, which takes seconds
    expand(config.data.text)
    if command.plan:
        from calib.plan import make_plan

        warnings = _warnings(args.model_dir)
        plan = make_plan(args.model_dir, config, command.device)
        print(json.dumps({**plan.to_json(), "warnings": warnings}) if args.json else plan.table())
        return
    from calib.parallel import Team
    from calib.pipeline import run as calibrate
    from calib.progress import Bars

    with Team.launched(command.device) as team, Bars(shown=team.leads and not command.quiet) as bars:
        if team.leads:
            _warnings(args.model_dir)
        result = calibrate(
            args.model_dir,
            args.out_dir,
            config,
            team=team,
            fresh=command.fresh,
            keep_work=command.keep_work,
            progress=bars.show,
        )
    if team.leads:
        print(json.dumps(result.to_json()) if args.json else result.summary())


def _warnings(model_dir: Path) -> list[str]:
    """What to know of a model before a run, also said on stderr."""
    from calib.exportable import early_warnings  # with transformers

    found = early_warnings(model_dir)
    for line in found:
        print(f"warning: {line}", file=sys.stderr)
    return found


def _end(code: int) -> NoReturn:
    """End this process with `code`; one of several skips Python's shutdown, all being written and printed.

    In that shutdown, a thread of gloo that lets go of a tensor aborts the process (SIGABRT, "terminate called without
    an active exception"): it waits for the interpreter's lock, which then ends threads. The end of the process group
    stops these threads only where nothing else knows the group; with FSDP, PyTorch's caches do.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _end(main())
