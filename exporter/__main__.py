"""`python -m exporter MODEL_DIR OUT.onnx`: a Hugging Face model directory to ONNX with dual-binary weights."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualbinary import OP, DualBinaryError, InputError
from dualbinary.cli.console import add_common_options, run
from dualbinary.files.staging import check_output
from exporter.options import CUDA_PLANES, FALLBACKS, LOGITS, PLAIN_PLANES, SCALE_BITS, TARGETS, ExportOptions

__all__ = ["main"]

GENERATED = 256  # windows that the model writes for a calibration without text

_EPILOG = """\
examples:
  python -m exporter Llama-3.2-1B llama/llama.onnx                      4 planes with offset, fitted without data
  python -m exporter Llama-3.2-1B-fdb llama/llama.onnx --check          a checkpoint of two trained planes, as stored
  python -m exporter SmolLM2-135M s/s.onnx --calibrate fast --text a.txt  two planes, trained here and now

The model's directory also gets the data file, genai_config.json, config.json, generation_config.json, the tokenizer's
files, export_report.json and, where it is installed, the custom-op library.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m exporter",
        description="Export a Hugging Face language model to ONNX with dual-binary weights.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument(
        "model_dir", type=Path, metavar="MODEL_DIR", help="plain model directory, or a dualbinary checkpoint"
    )
    result.add_argument("out", type=Path, metavar="OUT.onnx", help="file to write; the others appear beside it")
    _add_fit_options(result)
    _add_graph_options(result)
    work = result.add_argument_group("work")
    work.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        help="compare the result with PyTorch; fail where they disagree (default: for model types without a test)",
    )
    work.add_argument("--force", action="store_true", help="replace existing files")
    work.add_argument("--quiet", action="store_true", help="no progress bar")
    add_common_options(result)
    return result


def _add_fit_options(result: argparse.ArgumentParser) -> None:
    limits, multiple = OP.limits, OP.limits["group_multiple"]
    fitted = result.add_argument_group("planes of a plain directory (a checkpoint brings its own)")
    fitted.add_argument(
        "--planes",
        type=int,
        metavar="P",
        help=f"binary planes, {limits['min_planes']} to {limits['max_planes']} (default {PLAIN_PLANES})",
    )
    fitted.add_argument(
        "--group-size", type=int, metavar="G", help=f"weights per scale, a multiple of {multiple} (default 64)"
    )
    fitted.add_argument(
        "--offset",
        action=argparse.BooleanOptionalAction,
        help=f"an offset per group (default: with {PLAIN_PLANES} planes)",
    )
    fitted.add_argument(
        "--calibrate",
        choices=("fast", "best"),
        help="train two planes first with python -m calib, whose --plan says how long that takes; the "
        "checkpoint stays beside OUT.onnx; a run that was interrupted goes on at the same command",
    )
    fitted.add_argument(
        "--text",
        type=Path,
        action="append",
        metavar="FILE",
        help="text for --calibrate; may be repeated (default: the model writes its own)",
    )


def _add_graph_options(result: argparse.ArgumentParser) -> None:
    graph = result.add_argument_group("graph")
    graph.add_argument(
        "--scale-bits",
        type=int,
        default=16,
        choices=SCALE_BITS,
        help="16: float16 scales, or as a checkpoint stores them; 8: rounded to 8 bits, for a smaller and faster file "
        "(default 16)",
    )
    layouts = [layout.name for layout in OP.layouts]
    graph.add_argument(
        "--layout",
        default=layouts[0],
        choices=layouts,
        help="how planes and scales are stored: plain runs on every CPU; the others are ready for one instruction set: "
        "a device maps the file and starts at once, and other CPUs refuse it; dualbinary relayout goes between them "
        "(default plain)",
    )
    graph.add_argument(
        "--accuracy-level", type=int, default=0, choices=OP.attribute("accuracy_level").values,
        help="0: activations at 15 bits or better; 4: activations at int8, faster (default 0)",
    )  # fmt: skip
    graph.add_argument(
        "--dtype",
        choices=("fp32", "fp16"),
        help="type of activations and KV cache; with --target cuda, attention and cache are fp16 in either case "
        "(default fp32, with --target cuda fp16)",
    )
    graph.add_argument(
        "--embedding-bits",
        type=int,
        default=8,
        choices=(4, 8, 16, 32),
        help="bits of token embedding and head (default 8)",
    )
    graph.add_argument(
        "--logits",
        default="last",
        choices=LOGITS,
        help="last: behind the last token only, which is what generating takes; all: behind every token (default last)",
    )
    graph.add_argument(
        "--fallback",
        default="ort4",
        choices=FALLBACKS,
        help="how the model runs where the library is absent (default ort4)",
    )
    graph.add_argument(
        "--target",
        default="cpu",
        choices=TARGETS,
        help="execution provider of ONNX Runtime that the graph and genai_config.json are made for; cuda takes layout "
        f"plain and 1 to {CUDA_PLANES} planes (default cpu)",
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    signal.signal(signal.SIGTERM, _interrupt)  # so that a terminated export cleans up as an interrupted one does
    return run(parser(), _command, argv)


def _command(args: argparse.Namespace) -> None:
    options = ExportOptions(
        planes=args.planes,
        group_size=args.group_size,
        offset=args.offset,
        scale_bits=args.scale_bits,
        layout=args.layout,
        accuracy_level=args.accuracy_level,
        dtype=args.dtype,
        embedding_bits=args.embedding_bits,
        logits=args.logits,
        fallback=args.fallback,
        target=args.target,
    )
    if args.text and not args.calibrate:
        raise InputError("--text is for --calibrate fast|best, which is not given")
    if not args.calibrate:
        _export(args, args.model_dir, options)
        return
    if (args.planes, args.group_size, args.offset) != (None, None, None):
        raise InputError(
            "--calibrate decides planes, group size and offset; leave --planes, --group-size and --offset out"
        )
    check_output(args.out, [args.out.name], force=args.force, model_dir=args.model_dir)
    checkpoint = args.out.with_name(args.out.stem + "-checkpoint")
    if checkpoint.exists():
        raise InputError(
            f"{checkpoint}: holds what an earlier --calibrate made; export it with python -m exporter {checkpoint} "
            f"{args.out}, or remove it to train again"
        )
    _calibrate(args, checkpoint)
    _export(args, checkpoint, options)


def _calibrate(args: argparse.Namespace, checkpoint: Path) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "calib", str(args.model_dir), str(checkpoint), "--preset", args.calibrate]
    command += ["--quiet"] if args.quiet else []
    for text in args.text or []:
        command += ["--text", str(text)]
    if not args.text:
        command += ["--generate", str(GENERATED)]
    code = subprocess.run(command, check=False, stdout=sys.stderr).returncode
    if code or not (checkpoint / "config.json").is_file():
        raise DualBinaryError(
            f"python -m calib ended with exit code {code} and left no checkpoint; nothing was exported"
        )


def _export(args: argparse.Namespace, model_dir: Path, options: ExportOptions) -> None:
    from exporter.pipeline import export

    begin = time.perf_counter()
    found = _installed_library()
    library = found.path
    result = export(
        model_dir,
        args.out,
        options,
        library=library,
        cuda_library=found.cuda if options.target == "cuda" else None,
        force=args.force,
        progress=not args.quiet and sys.stderr.isatty(),
    )
    summary: dict[str, Any] = {
        "out": str(args.out),
        "seconds": round(time.perf_counter() - begin, 1),
        **result.report["totals"],
    }
    summary["warnings"] = list(result.warnings)
    for line in result.warnings:
        print(f"note: {line}", file=sys.stderr)
    if library is None:
        print(
            f"note: no library beside the model, which runs by its fallback function: {found.reason}", file=sys.stderr
        )
    if not args.json:
        print(_sentence(args.out, summary))
    if args.check or (args.check is None and not result.verified):
        from exporter.verify import check

        if library is not None and options.layout not in found.layouts:
            print(
                f"note: this machine does not read layout {options.layout}; its fallback function is checked instead",
                file=sys.stderr,
            )
            library = None
        outcome = check(result, args.out, library)
        summary["check"] = outcome.to_dict()
        if outcome.provider != options.target:
            print(
                "note: ONNX Runtime has no CUDA here, so its CPU provider ran the check: that covers the graph, and "
                "none of CUDA's kernels",
                file=sys.stderr,
            )
        if not args.json:
            print(_check_sentence(summary["check"]))
    if args.json:
        print(json.dumps(summary))
    if "check" in summary and not summary["check"]["passed"]:
        raise DualBinaryError(
            f"{args.out}: ONNX Runtime and PyTorch disagree (relative error {summary['check']['relative_error']:.2e}, "
            f"allowed {summary['check']['tolerance']:.0e}); the files are kept for inspection, do not ship them"
        )


def _sentence(out: Path, summary: dict[str, Any]) -> str:
    return (
        f"{out}: {summary['file_bytes'] / 1e6:.1f} MB, {summary['bits_per_weight']:.3f} bits per quantized weight with "
        f"scales, {summary['bits_per_parameter']:.3f} over all parameters, in {summary['seconds']:.1f} s"
    )


def _check_sentence(outcome: dict[str, Any]) -> str:
    return (
        f"check {'passed' if outcome['passed'] else 'FAILED'} ({outcome['provider']} provider, {outcome['kernel']}, "
        f"{outcome['tokens']} tokens): "
        f"relative error {outcome['relative_error']:.2e} (allowed {outcome['tolerance']:.0e}), KL {outcome['kl']:.2e}, "
        f"same top token {outcome['top1']:.1%}"
    )


@dataclass(frozen=True)
class _Library:
    """The custom-op library of an installed runtime_ext, or None and the `reason`.

    layouts: stored layouts that it reads here.
    cuda: the library with the CUDA kernels, where there is one.
    """

    path: Path | None
    layouts: tuple[str, ...] = ()
    cuda: Path | None = None
    reason: str = ""


def _installed_library() -> _Library:
    """What a child process tells of the library, as packages stay apart."""
    command = [sys.executable, "-m", "runtime_ext", "info", "--json"]
    answer = subprocess.run(command, check=False, capture_output=True, text=True)
    if answer.returncode:
        lines = answer.stderr.strip().splitlines()
        reason = lines[-1].removeprefix("error: ") if lines else f"{' '.join(command[1:])} said nothing"
        return _Library(None, reason=reason)
    facts = json.loads(answer.stdout)
    library, cuda = facts["library"], facts["cuda"]
    return _Library(Path(library["library"]), tuple(library["layouts"]), Path(cuda["library"]) if cuda else None)


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
