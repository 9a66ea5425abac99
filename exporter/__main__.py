"""`python -m exporter MODEL_DIR OUT.onnx`: a Hugging Face model directory to ONNX with dual-binary weights."""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from dualbinary import DualBinaryError, InputError
from dualbinary.bundle import BundledLibrary, bundled_libraries
from dualbinary.checkpoint import read_quantization_config
from dualbinary.cli.console import add_common_options, interrupt_when_terminated, run, state_of
from dualbinary.cli.options import add_options, option, options_from
from dualbinary.errors import OptionError
from dualbinary.files.sizes import parse_size
from dualbinary.files.systems import named_systems
from exporter.calibration import Wish, calibrated, checkpoint_of
from exporter.early_checks import library_names
from exporter.imported_source import imported, needs_import, refuse_import
from exporter.installed_library import InstalledLibrary, installed_library
from exporter.options import FITTED, ExportOptions

if TYPE_CHECKING:
    from exporter.pipeline import ExportResult
    from exporter.verify import CheckResult

__all__ = ["CommandOptions", "main"]

WHEELS = Path("dist")

_EPILOG = """\
examples:
  python -m exporter Llama-3.2-1B llama/llama.onnx                      exact where a layer can be, or fitted to 4 bits
  python -m exporter Llama-3.2-1B-fdb llama/llama.onnx --check          a checkpoint of two trained planes, as stored
  python -m exporter Llama-3.2-1B.Q4_K_M.gguf llama/llama.onnx         a model that another tool quantized, exactly
  python -m exporter SmolLM2-135M s/s.onnx --calibrate fast --text a.txt  2.5 bits, trained here and now
  python -m exporter SmolLM2-135M s/s.onnx --calibrate quick --bits 3.5   minutes: 3.5 bits where they count
  python -m exporter SmolLM2-135M s/s.onnx --size 60MB                    a file of that size, fitted without data

The model's directory also gets the data file, genai_config.json, config.json, generation_config.json, the tokenizer's
files, export_report.json and, where it is installed, the custom-op library.
"""


class Beside(TypedDict):
    """The libraries that lie beside a model."""

    library: Path | None
    cuda_library: Path | None
    bundled: list[BundledLibrary]


@dataclass(frozen=True)
class CommandOptions:
    """Options of the command beside those of `exporter.export`."""

    calibrate: str | None = option(
        None,
        help="first run python -m calib, whose --plan says how long that takes. fast, best: train 2.5 bits a weight, "
        "spent where they count (for {target} cuda one format of two planes); quick: minutes, errors of rounding fed "
        "into weights that are rounded later, for any number of planes. The checkpoint stays beside OUT.onnx; the same "
        "command continues a run that was interrupted",
        choices=("quick", "fast", "best"),
        group=FITTED,
    )
    bits: float | None = option(
        None,
        help="a budget: bits of a weight of the linear layers, with scales (bits_per_weight of export_report.json), "
        "spent on planes and groups of each layer where they lower the loss most. Without {calibrate} weights are "
        "fitted without data, and text only says what counts",
        above=1,
        maximum=8.5,
        metavar="B",
    )
    size: str | None = option(
        None,
        help="likewise, a budget for OUT.onnx and its data file together, as 60MB; it decides the bits of vocabulary "
        "tables too",
        metavar="SIZE",
    )
    text: tuple[Path, ...] = option(
        (),
        help="text for {calibrate}, {bits} and {size}; may be repeated",
        shown="default: the model writes its own",
        metavar="FILE",
    )
    requantize: bool = option(
        False, help="of a model that another tool quantized: fit weights that no even levels hold to four bits"
    )
    check: bool | None = option(
        None,
        help="compare the result with PyTorch; fail where they disagree",
        shown="default: for model types without a test",
        group="work",
    )
    check_tokens: int | None = option(
        None,
        help="tokens of the longest sequence that {check} compares",
        minimum=2,
        shown="default: what windows and rotations of the model ask for, as far as about a minute allows",
        metavar="N",
    )
    bundle: str | None = option(
        None,
        help="libraries of other systems beside the model: linux-x64,windows-x64 and so on, or all; "
        "docs/howto/run_elsewhere.md says how hosts take theirs",
        metavar="SYSTEMS",
    )
    bundle_from: Path | None = option(
        None,
        help="folder of wheels, or of another bundle, that {bundle} takes libraries from",
        shown=f"default {WHEELS}",
        metavar="DIR",
    )
    force: bool = option(False, help="replace existing files")
    quiet: bool = option(False, help="no progress bar")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m exporter",
        description="Export a Hugging Face language model to ONNX with dual-binary weights.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument(
        "model_dir",
        type=Path,
        metavar="SOURCE",
        help="plain model directory, a dualbinary checkpoint, or what python -m importer reads: a .gguf file, or a "
        "directory that another tool quantized",
    )
    result.add_argument("out", type=Path, metavar="OUT.onnx", help="file to write; the others appear beside it")
    add_options(result, ExportOptions, CommandOptions)
    add_common_options(result)
    return result


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a model directory is complete; nothing may be fetched
    logging.getLogger("mobius").setLevel(logging.ERROR)
    interrupt_when_terminated()
    return run(parser, _command, argv, kept=_kept)


def _kept(args: argparse.Namespace) -> str:
    command = options_from(args, CommandOptions)
    state = state_of(args.out)
    if not (command.calibrate or command.bits or command.size):
        return state
    if (checkpoint := checkpoint_of(args.out)).exists():
        return f"{state}; python -m exporter {checkpoint} {args.out} goes on with what the calibration made"
    return f"{state}; the same command goes on with the calibration"


def _command(args: argparse.Namespace) -> None:
    options, command = options_from(args, ExportOptions), options_from(args, CommandOptions)
    if command.check_tokens is not None and command.check is False:
        raise InputError("--check-tokens is for --check; leave --no-check out")
    wish = _wish(command)
    if command.text and wish is None:
        raise InputError("--text is for --calibrate, --bits and --size, none of which is given")
    library = installed_library()
    beside = _beside(options, library, _bundled(options, command, library))  # before any work: one may be missing
    if needs_import(args.model_dir):
        if wish is not None:
            asked = "--calibrate" if wish.preset else f"--{wish.budget}"
            raise InputError(f"{args.model_dir}: {asked} takes a full-precision model, which this is not")
        refuse_import(args.model_dir, args.out, options, library_names(**beside), force=command.force)
        ways = {"requantize": command.requantize, "quiet": command.quiet}
        with imported(args.model_dir, args.out.parent, **ways) as (checkpoint, notes):
            _export_and_check(args, checkpoint, options, command, library, beside, notes)
        return
    read_quantization_config(args.model_dir)  # what is wrong is said before PyTorch is loaded, which takes seconds
    if command.requantize:
        raise InputError(f"--requantize is for models that another tool quantized, which {args.model_dir} is not")
    model_dir = args.model_dir
    if wish is not None:
        ways = {"force": command.force, "quiet": command.quiet}
        model_dir, options = calibrated(model_dir, args.out, options, wish, library_names(**beside), **ways)
    _export_and_check(args, model_dir, options, command, library, beside)


def _bundled(options: ExportOptions, command: CommandOptions, library: InstalledLibrary) -> list[BundledLibrary]:
    """The libraries of the systems that --bundle names."""
    if command.bundle is None:
        if command.bundle_from is not None:
            raise OptionError("bundle_from", "no value without {bundle}", command.bundle_from, "name {bundle} all")
        return []
    if options.layout_for is not None:
        expected = f"no value with {{layout_for}} {options.layout_for}, which registers no library"
        raise OptionError("bundle", expected, command.bundle, "leave {bundle} out")
    if options.op != "dualbinary":
        expected = "no value with {op} " + options.op + ", whose graph needs no library"
        raise OptionError("bundle", expected, command.bundle, "leave {bundle} out, or use {op} dualbinary")
    return bundled_libraries(named_systems(command.bundle.split(",")), [command.bundle_from or WHEELS], library.path)


def _beside(options: ExportOptions, library: InstalledLibrary, bundled: list[BundledLibrary]) -> Beside:
    """The libraries that lie beside the model, as arguments of `export`."""
    return {
        "library": library.path if options.op == "dualbinary" and options.layout_for is None else None,
        "cuda_library": library.cuda if options.target == "cuda" and options.op == "dualbinary" else None,
        "bundled": bundled,
    }


def _wish(command: CommandOptions) -> Wish | None:
    """What is asked of a calibration; None where nothing is."""
    if command.calibrate is None and command.bits is None and command.size is None:
        return None
    try:
        size = None if command.size is None else parse_size(command.size)
    except InputError as error:
        raise InputError(f"--size: {error}") from None
    return Wish(command.calibrate, command.bits, size, command.text)


def _export_and_check(
    args: argparse.Namespace,
    model_dir: Path,
    options: ExportOptions,
    command: CommandOptions,
    library: InstalledLibrary,
    beside: Beside,
    notes: Sequence[str] = (),
) -> None:
    result, seconds = _export(model_dir, args.out, options, command, beside)
    summary: dict[str, Any] = {
        "out": str(result.path),
        "seconds": round(seconds, 1),
        **result.report["totals"],
        "warnings": [*notes, *result.warnings],
    }
    for warning in summary["warnings"]:
        _note(warning)
    if library.path is None and options.op == "dualbinary" and options.layout_for is None:
        way = "runs only where a host registers one" if options.fallback == "none" else "runs by its fallback function"
        _note(f"no library beside the model, which {way}: {library.reason}")
    if not args.json:
        print(_sentence(result.path, summary))
        print(_formats(result.report["formats"]), end="")
    outcome: CheckResult | None = None
    if command.check or command.check_tokens or (command.check is None and not result.verified):
        outcome = _check(result, result.path, library, command.check_tokens)
        summary["check"] = outcome.to_dict()
    if args.json:
        print(json.dumps(summary))
    elif outcome is not None:
        print(_check_sentence(outcome))
    _fail_on_disagreement(result.path, outcome)


def _export(
    model_dir: Path, out: Path, options: ExportOptions, command: CommandOptions, beside: Beside
) -> tuple["ExportResult", float]:
    """The export, and the seconds it took."""
    from exporter.pipeline import export

    begin = time.perf_counter()
    progress = not command.quiet and sys.stderr.isatty()
    result = export(model_dir, out, options, **beside, force=command.force, progress=progress)
    return result, time.perf_counter() - begin


def _check(result: "ExportResult", out: Path, library: InstalledLibrary, tokens: int | None) -> "CheckResult":
    """The comparison with PyTorch; notes say what it leaves unchecked."""
    from exporter.verify import check

    options, path = result.options, library.path
    if path is not None and options.layout not in library.layouts:
        _note(f"this machine does not read layout {options.layout}; its fallback function is checked instead")
        path = None
    try:
        outcome = check(result, out, path, tokens)
    except (DualBinaryError, OSError, MemoryError):
        raise
    except Exception as error:  # torch, transformers and ONNX Runtime share no base
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise DualBinaryError(
            f"{out}: --check could not compare it with PyTorch ({reason}); the files are kept"
        ) from error
    if outcome.provider != options.target:
        _note(
            "ONNX Runtime has no CUDA here, so its CPU provider ran the check: that covers the graph, and none of the "
            "CUDA kernels"
        )
    if outcome.not_reached:
        _note(
            f"--check compared {outcome.longest} tokens and did not reach {', '.join(outcome.not_reached)}; "
            f"--check-tokens {outcome.wanted} does, and takes longer"
        )
    return outcome


def _fail_on_disagreement(out: Path, outcome: "CheckResult | None") -> None:
    if outcome is not None and not outcome.passed:
        raise DualBinaryError(
            f"{out}: ONNX Runtime and PyTorch disagree in {outcome.worst.name} (relative error "
            f"{outcome.relative_error:.2e}, allowed {outcome.tolerance:.0e}); the files are kept for inspection, do "
            "not ship them"
        )


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def _sentence(out: Path, summary: dict[str, Any]) -> str:
    return (
        f"{out}: {summary['file_bytes'] / 1e6:.1f} MB, {summary['bits_per_weight']:.3f} bits per quantized weight with "
        f"scales, {summary['bits_per_parameter']:.3f} over all parameters, in {summary['seconds']:.1f} s"
    )


def _formats(formats: dict[str, dict[str, Any]]) -> str:
    """A line for each format, where there are several."""
    if len(formats) < 2:
        return ""
    lines = []
    for words, counts in formats.items():
        size = f"{counts['weights']:,} weights of {counts['bits_per_weight']:.3f} bits"
        lines.append(f"  {counts['layers']} layers, {size}: {words}\n")
    return "".join(lines)


def _check_sentence(outcome: "CheckResult") -> str:
    sentence = (
        f"check {'passed' if outcome.passed else 'FAILED'} ({outcome.provider} provider, {outcome.kernel}, "
        f"{outcome.tokens} logits, up to {outcome.longest} tokens): "
        f"relative error {outcome.relative_error:.2e} (allowed {outcome.tolerance:.0e}), KL {outcome.kl:.2e}, "
        f"same top token {outcome.top1:.1%}"
    )
    if (original := outcome.original) is not None:
        sentence += f"; from the original weights, {original.tokens} logits: KL {original.kl:.2e}, "
        sentence += f"same top token {original.top1:.1%}"
    return sentence


if __name__ == "__main__":
    sys.exit(main())
