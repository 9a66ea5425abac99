"""The command `dualbinary`, or `python -m dualbinary`: one name for the commands of all packages.

    dualbinary export ...       python -m exporter ...
    dualbinary import ...       python -m importer ...
    dualbinary inspect ...      python -m importer --inspect ...
    dualbinary convert ...      python -m importer.convert ...
    dualbinary quantize ...     python -m calib ...
    dualbinary generate ...     python -m runtime_ext generate ...     and so on for serve, bench, info and doctor
    dualbinary relayout ...     python -m dualbinary.onnx_files.relayout ...
    dualbinary bundle ...       python -m dualbinary.bundle ...

The modules are run by name, not imported: this package depends on no other one.
"""

import argparse
import runpy
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from dualbinary.cli.version import package_version
from dualbinary.contract.schema import OP, digest

__all__ = ["main"]


@dataclass(frozen=True)
class Verb:
    module: str
    arguments: tuple[str, ...]
    extra: str  # of the distribution, with what the module imports; empty where the base has it all
    text: str


VERBS = {
    "export": Verb("exporter", (), "export", "turn a Hugging Face model directory into an ONNX file"),
    "import": Verb("importer", (), "export", "make a checkpoint of a low-bit model of another tool"),
    "inspect": Verb("importer", ("--inspect",), "export", "say what such a model is, before any work"),
    "convert": Verb(
        "importer.convert", (), "export", "write such a model for llama.cpp or as GPTQ, its levels as they are"
    ),
    "quantize": Verb("calib", (), "calib", "train a model to two bits per weight"),
    "relayout": Verb("dualbinary.onnx_files.relayout", (), "relayout", "change the stored layout of an exported model"),
    "generate": Verb("runtime_ext", ("generate",), "", "continue a prompt with an exported model"),
    "serve": Verb("runtime_ext", ("serve",), "serve", "answer requests of the OpenAI API with an exported model"),
    "bench": Verb("runtime_ext", ("bench",), "", "measure an exported model"),
    "bundle": Verb("dualbinary.bundle", (), "", "lay the libraries of other systems beside an exported model"),
    "doctor": Verb("runtime_ext", ("doctor",), "", "say what this machine runs a model with, and what is wrong"),
    "info": Verb("runtime_ext", ("info",), "", "describe the runtime library and this machine"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb that comes first with all that follows; return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    listing = "\n".join(f"  {name:<10} {verb.text}" for name, verb in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="dualbinary",
        usage="dualbinary [-h] [--version] VERB ...",
        description="Language models at about two bits per weight in ONNX Runtime.",
        epilog=f"verbs:\n{listing}\n\n`dualbinary VERB --help` describes a verb.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_version())
    parser.add_argument("verb", choices=VERBS, help=argparse.SUPPRESS)
    verb = VERBS[parser.parse_args(arguments[:1]).verb]
    return _run(verb, [*verb.arguments, *arguments[1:]])


def _run(verb: Verb, arguments: list[str]) -> int:
    saved = sys.argv
    sys.argv = [verb.module, *arguments]
    try:
        runpy.run_module(verb.module, run_name="__main__", alter_sys=True)
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
            return 1
        return leaving.code or 0
    except ModuleNotFoundError as error:
        if not verb.extra:
            raise
        print(f"error: {error}; pip install 'dualbinary[{verb.extra}]' has what is needed", file=sys.stderr)
        return 1
    finally:
        sys.argv = saved
    return 0


def _version() -> str:
    return f"dualbinary {package_version()}, {OP.domain}::{OP.name} version {OP.version}, contract {digest()}"


if __name__ == "__main__":
    sys.exit(main())
