"""`python -m runtime_ext doctor`: what this machine runs models with, and what is wrong.

python -m runtime_ext doctor [OUT.onnx] [--provider cuda] [--json]

Exit code 0 where models run, notes or not; 1 where something is wrong. A model is loaded as `generate` loads it.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dualbinary.cli.options import option, options_from
from dualbinary.cli.version import package_version
from dualbinary.errors import DualBinaryError
from runtime_ext.doctor.findings import WRONG, Finding
from runtime_ext.doctor.machine import look_at_machine
from runtime_ext.doctor.model import look_at_model

__all__ = ["EXAMPLES", "OPTIONS", "DoctorOptions", "diagnose"]

_MARKS = {"good": "  ", "note": "· ", "wrong": "✗ "}


@dataclass(frozen=True)
class DoctorOptions:
    """Options of the command."""

    provider: str = option("cpu", help="where models are to run", choices=("cpu", "cuda"))


OPTIONS = (DoctorOptions,)
EXAMPLES = """\
examples:
  dualbinary doctor
  dualbinary doctor OUT.onnx --json
"""


def diagnose(model: Path | None = None, provider: str = "cpu") -> Iterator[Finding]:
    """Findings about this machine and, where one is given, a model, in the order in which they are looked for."""
    yield from look_at_machine(provider)
    if model is not None:
        yield from look_at_model(model, provider)


def command(args: argparse.Namespace) -> None:
    """Run the command."""
    findings = []
    for finding in diagnose(args.model, options_from(args, DoctorOptions).provider):
        findings.append(finding)
        if not args.json:
            print(f"{_MARKS[finding.state]}{finding.check:13} {finding.text}", flush=True)
    wrong = [finding for finding in findings if finding.state == WRONG]
    if args.json:
        found = [finding.to_dict() for finding in findings]
        python = sys.version.split()[0]
        print(json.dumps({"ok": not wrong, "version": package_version(), "python": python, "findings": found}))
    if wrong:
        raise DualBinaryError(f"{len(wrong)} of {len(findings)} checks found something wrong: {wrong[0].text}")
