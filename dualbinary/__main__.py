"""The command `dualbinary`, or `python -m dualbinary`: one name for the commands of all packages.

    dualbinary export ...       python -m exporter ...
    dualbinary import ...       python -m importer ...
    dualbinary inspect ...      python -m importer.inspect ...
    dualbinary convert ...      python -m importer.convert ...
    dualbinary quantize ...     python -m calib ...                    and so on for eval and report
    dualbinary generate ...     python -m runtime_ext generate ...     and so on for chat, serve, bench, info and doctor
    dualbinary relayout ...     python -m dualbinary.onnx_files.relayout ...
    dualbinary bundle ...       python -m dualbinary.bundle ...
    dualbinary completion ...   prints a script for a shell

The modules are run by name, not imported: this package depends on no other one.
"""

import argparse
import runpy
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from dualbinary.cli.console import called
from dualbinary.cli.verbs import VERBS, Verb

__all__ = ["VERBS", "Verb", "main"]


_EPILOG = """\
from a model to an answer:
  dualbinary export SmolLM2-135M s/model.onnx       weights as they are where four bits hold them, else fitted to them
  dualbinary chat s/model.onnx

`dualbinary VERB --help` describes a verb.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb that comes first with all that follows; return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    listing = "\n".join(f"  {name:<11} {verb.text}" for name, verb in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="dualbinary",
        usage="dualbinary [-h] [--version] VERB ...",
        description="Language models at two to five bits per weight in ONNX Runtime.",
        epilog=f"verbs:\n{listing}\n\n{_EPILOG}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="say what is installed, and leave")
    parser.add_argument("verb", choices=VERBS, help=argparse.SUPPRESS)
    name = parser.parse_args(arguments[:1]).verb
    with called(f"dualbinary {name}"):
        return _run(VERBS[name], [*VERBS[name].arguments, *arguments[1:]])


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
    except KeyboardInterrupt:  # before the command took it upon itself
        print("interrupted", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        if not verb.extra:
            raise
        print(f"error: {error}; pip install 'dualbinary[{verb.extra}]' has what is needed", file=sys.stderr)
        return 1
    finally:
        sys.argv = saved
    return 0


class _Version(argparse.Action):
    """Prints the version; what it says is imported only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from dualbinary.cli.version import package_version
        from dualbinary.contract.schema import OP, digest

        print(f"dualbinary {package_version()}, {OP.domain}::{OP.name} version {OP.version}, contract {digest()}")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
