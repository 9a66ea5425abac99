"""What tells before any weight is read, and without PyTorch, that an export would be refused in the end."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dualbinary import InputError
from dualbinary.bundle import BundledLibrary
from dualbinary.errors import OptionError
from dualbinary.files.model_files import CONFIGS, OPTIONAL_FILES
from exporter.export_folder import ExportFolder
from exporter.options import ExportOptions

__all__ = ["FORMAT", "library_names", "output_names", "refuse_length", "stated_context"]

FORMAT = ("planes", "group_size", "offset", "levels", "zero", "rotate")
"""The options of a fit, which a checkpoint brings its own of."""

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "seq_length")


def output_names(out: Path, options: ExportOptions, libraries: Sequence[str]) -> list[str]:
    """The files that an export to `out` may write, with copies of `libraries`, or an earlier one may have left there.

    Those that it does not write go where it replaces others: they would be taken for its own.
    Raises InputError for a name of `out` that has no meaning.
    """
    return list(dict.fromkeys([*_model_names(out, options), *CONFIGS, *OPTIONAL_FILES, *libraries]))


def library_names(
    library: Path | None = None, cuda_library: Path | None = None, bundled: Sequence[BundledLibrary] = ()
) -> list[str]:
    """The names beside the model of the libraries that `export` is given."""
    own = [file.name for file in (library, cuda_library) if file is not None]
    return own + [each.system.file for each in bundled]


def stated_context(config: Mapping[str, Any]) -> int | None:
    """The context that the values of a config.json state, in tokens."""
    stated = (config.get(key) for key in _CONTEXT_KEYS)
    return next((value for value in stated if isinstance(value, int)), None)


def refuse_length(context: int | None, options: ExportOptions) -> None:
    """Raise OptionError for more tokens than the model's context."""
    if context is not None and options.max_length is not None and options.max_length > context:
        expected = f"at most {context}, the context in config.json"
        raise OptionError("max_length", expected, options.max_length, "leave {max_length} out")


def _model_names(out: Path, options: ExportOptions) -> list[str]:
    """The files of graph and weights."""
    if options.layout_for is None:
        usual = ExportFolder.of(out.name)
        return [usual.model, usual.data]
    from exporter import transformers_js  # onnx comes with it

    if out.name != f"{transformers_js.MODEL}.onnx":
        raise InputError(
            f"{out}: --layout-for transformersjs names the model itself, {transformers_js.FOLDER}/"
            f"{transformers_js.MODEL}_q4.onnx or the like; give FOLDER/{transformers_js.MODEL}.onnx"
        )
    return transformers_js.model_names()
