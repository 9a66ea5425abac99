"""The checkpoint that an export begins with where it is asked to calibrate, or for a budget: calib, as a child process.

    --calibrate NAME       the preset of that name, on text that is given or that the model writes
    --bits, --size         a budget of that preset; without --calibrate that of a fit without data, for which text is
                           only asked what formats cost

The checkpoint stays beside OUT.onnx, and the same command continues a run that was interrupted.
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dualbinary import DualBinaryError, InputError
from dualbinary.errors import OptionError
from dualbinary.files.documents import expand
from dualbinary.files.model_files import CONFIG_FILE
from dualbinary.files.sizes import size_words
from dualbinary.files.staging import check_output
from dualbinary.fitting.table_forms import TABLE_BITS
from exporter.early_checks import FORMAT, output_names
from exporter.options import STOCK, ExportOptions

if TYPE_CHECKING:
    from exporter.graph.export_graph import ExportGraph

__all__ = ["Wish", "calibrated", "checkpoint_of"]

GENERATED = {"quick": 16}  # windows that the model writes without text; presets that train know how many
MEASURED = 4  # likewise, where formats alone are asked about
TRAINED = ("fast", "best")  # presets with a budget of their own, in whose place these planes come for other kernels
PLANES = 2


@dataclass(frozen=True)
class Wish:
    """What is asked for: a preset, a budget, or both; `text` none: the model writes its own."""

    preset: str | None
    bits: float | None
    size: int | None
    text: tuple[Path, ...]

    @property
    def budget(self) -> str | None:
        """The option that gives a budget."""
        return "bits" if self.bits is not None else "size" if self.size is not None else None


def checkpoint_of(out: Path) -> Path:
    """The directory of the checkpoint that the export to `out` begins with; it is there when all of it is made."""
    return out.with_name(out.stem + "-checkpoint")


def calibrated(
    model_dir: Path,
    out: Path,
    options: ExportOptions,
    wish: Wish,
    libraries: Sequence[str],
    *,
    force: bool,
    quiet: bool,
) -> tuple[Path, ExportOptions]:
    """Make the checkpoint from `model_dir`; its directory, and the options that export it.

    `libraries` are the names of those that the export copies. What it would refuse is refused first.
    Raises InputError for options that contradict one another, and SystemExit(2) where the child has said what is wrong.
    """
    _refuse_contradictions(options, wish)
    expand(tuple(map(str, wish.text)))
    checkpoint = checkpoint_of(out)
    if checkpoint.exists():
        raise InputError(
            f"{checkpoint}: holds what an earlier --calibrate, --bits or --size made; export it with python -m "
            f"exporter {checkpoint} {out}, or remove it to make another one"
        )
    check_output(out, output_names(out, options, libraries), force=force, model_dir=model_dir)
    as_stored = replace(options, **dict.fromkeys(FORMAT))
    from exporter.preparation import graph_of_one_format, prepare  # with PyTorch, which takes seconds

    graph = graph_of_one_format(prepare(model_dir, out, as_stored, libraries, force=force), options)
    words = [sys.executable, "-m", "calib", str(model_dir), str(checkpoint), *_words(graph, options, wish)]
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    code = subprocess.run([*words, *(["--quiet"] if quiet else [])], check=False, stdout=sys.stderr).returncode
    if code == 2 and not checkpoint.exists():
        raise SystemExit(code)
    if code or not (checkpoint / CONFIG_FILE).is_file():
        raise DualBinaryError(
            f"python -m calib ended with exit code {code} and left no checkpoint; nothing was exported"
        )
    return checkpoint, as_stored


def _other_bytes(graph: "ExportGraph", options: ExportOptions, size: int) -> int:
    """Bytes of an export that are no quantized weights. Raises InputError where `size` has no room for more."""
    from exporter.size import other_bytes

    other = other_bytes(graph, options)
    if other >= size:
        raise InputError(f"--size {size}: expected more than {size_words(other)}, what is not quantized alone")
    return other


def _refuse_contradictions(options: ExportOptions, wish: Wish) -> None:
    given = [name for name in FORMAT if getattr(options, name) is not None]
    if wish.preset in TRAINED and not wish.budget and given:
        raise InputError(
            f"--calibrate {wish.preset} decides the format of every layer; leave --planes, --group-size, --offset, "
            "--levels, --zero and --rotate out, or use --calibrate quick"
        )
    if options.planes == "auto" and wish.preset:
        raise InputError("--planes auto is for weights as they are; leave it out with --calibrate")
    decided = [name for name in given if name != "rotate"]
    if wish.budget is None:
        _refuse_operator(options, wish, chosen=wish.preset == "quick" and not decided)
        return
    if wish.bits is not None and wish.size is not None:
        raise InputError("--bits and --size: expected one of them, a budget for layers or one for the whole file")
    if decided:
        names = ", ".join(
            ("--no-" if getattr(options, name) is False else "--") + name.replace("_", "-") for name in decided
        )
        raise InputError(f"--{wish.budget} decides the format of every layer; leave out {names}")
    for name, only in (("scale_bits", (None, 8)), ("op", ("dualbinary",)), ("target", ("cpu",))):
        if (value := getattr(options, name)) not in only:
            expected = f"{only[-1]} with {{{wish.budget}}}, whose formats are those of the library's CPU kernels"
            raise OptionError(name, expected, value, f"leave {{{name}}} out")
    if wish.size is not None:
        for name, allowed in (("embedding_bits", (None, *TABLE_BITS)), ("layout", ("plain",))):
            if (value := getattr(options, name)) not in allowed:
                expected = f"{', '.join(str(one) for one in allowed if one)} with {{size}}"
                raise OptionError(name, expected, value, f"leave {{{name}}} out")


def _refuse_operator(options: ExportOptions, wish: Wish, *, chosen: bool) -> None:
    """Refuse what cannot run the formats that the run will have, before it works; `chosen`: by a budget of its own."""
    made = f"{{calibrate}} {wish.preset}"
    if chosen:
        for name, only in (("op", ("dualbinary",)), ("target", ("cpu",)), ("scale_bits", (8, None))):
            if (value := getattr(options, name)) not in only:
                expected = f"{only[0]} with {made} alone, whose formats are those of the library's CPU kernels"
                way = f"leave {{{name}}} out, or add {{planes}} 4 and {{levels}} even"
                raise OptionError(name, expected, value, way)
    elif options.op in STOCK and options.levels != "even":
        way = ", or add {levels} even" if wish.preset == "quick" else ", or use {calibrate} quick with {levels} even"
        expected = f"dualbinary with {made}, whose planes have scales of their own"
        raise OptionError("op", expected, options.op, "leave {op} out" + way)


def _takes_budgets(options: ExportOptions) -> bool:
    """The formats of a budget, which are those of the library's CPU kernels, can be exported as `options` say."""
    return options.target == "cpu" and options.scale_bits in (None, 8)


def _words(graph: "ExportGraph", options: ExportOptions, wish: Wish) -> Sequence[str]:
    """The arguments of the child beside the directories; `graph` is that of the export with layers of one format."""
    words = ["--preset", wish.preset or "quick"]
    if wish.bits is not None:
        words += ["--bits", f"{wish.bits:g}"]
    if wish.size is not None:
        words += ["--size", str(wish.size), "--other-bytes", str(_other_bytes(graph, options, wish.size))]
        words += [] if options.embedding_bits is None else ["--embedding-bits", str(options.embedding_bits)]
    if wish.preset in TRAINED and not wish.budget and not _takes_budgets(options):
        words += ["--planes", str(PLANES)]
    for name in FORMAT:
        value = getattr(options, name)
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            words += [f"--{flag}", str(value)]
    fits = wish.preset is None
    words += ["--init-method", "fit", "--init-windows", str(MEASURED)] if fits else []
    words += [word for text in wish.text for word in ("--text", str(text))]
    written = MEASURED if fits else GENERATED.get(str(wish.preset))
    if wish.text:
        written = 0 if fits else None  # whether the model writes beside a text, a preset knows
    return words if written is None else [*words, "--generate", str(written)]
