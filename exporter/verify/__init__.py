"""The check of an export: the file in ONNX Runtime against PyTorch with the weights that the file holds.

It is as long as the windows and rotations that the model declares ask for, and says what it did not reach. How far the
file is from the original's own weights is told, too; that is no fault, as quantization changes them.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dualbinary import DualBinaryError
from dualbinary.files.staging import scratch
from exporter.pipeline import ExportResult
from exporter.verify.cases import Case, cases, expected_logits, token_ids
from exporter.verify.dequantized import write_dequantized
from exporter.verify.lengths import Plan, plan
from exporter.verify.reference import Reference
from exporter.verify.session import ExportedModel

__all__ = ["CaseResult", "CheckResult", "check"]

_ROWS = 256  # positions of which distributions are held in float64 at a time

# Largest relative error of the logits that the arithmetic explains, with room for models that amplify it, by type of
# the activations and accuracy level. Level 0 may lose 1e-4 in a product (the contract's 15 bits), which adds up like
# the square root of the number of products: 1.5e-3 for the 210 of a model of 30 layers. float16 activations lose 5e-4
# per step; level 4 rounds activations to 8 bits, 6e-3 per product.
_TOLERANCES = {("fp32", 0): 4e-3, ("fp16", 0): 1e-2, ("fp32", 4): 1.5e-1, ("fp16", 4): 1.5e-1}
# What keys and values in another type add: float16 as activations of that type; of int8 each number is off by up to
# 1/254 of its head's largest, as activations of 8 bits are.
_CACHE_TOLERANCES = {"fp32": 0.0, "fp16": 1e-2, "int8": 1.5e-1}


@dataclass(frozen=True)
class CaseResult:
    """The distance between logits of the file and those of PyTorch, over the positions of which the file gives logits.

    Attributes:
        name: what was fed.
        tokens: number of positions.
        relative_error: largest |logit - reference| over largest |reference|; NaN where either holds one.
        kl: mean over positions of KL(reference || exported), in nats.
        top1: share of positions with the same most likely token.
    """

    name: str
    tokens: int
    relative_error: float
    kl: float
    top1: float


@dataclass(frozen=True)
class CheckResult:
    """The distance of ONNX Runtime and PyTorch with the same weights, over all cases.

    Attributes:
        relative_error, kl, top1, tokens: as of a case, over all of them.
        tolerance: largest relative_error that passes.
        kernel: "library" or "fallback", which computed DualBinaryMatMul.
        provider: execution provider that ran the file, "cpu" or "cuda". A model for CUDA runs on the CPU where ONNX
            Runtime has no CUDA, which checks the graph but none of CUDA's kernels.
        cases: the distances case by case.
        longest: tokens of the longest sequence.
        not_reached: lengths that the model declares and no sequence exceeded, such as "sliding_window 4096".
        wanted: `--check-tokens` that would reach all of them.
        original: the distance from the directory's own weights in the first case; None for a checkpoint of planes.
    """

    relative_error: float
    kl: float
    top1: float
    tolerance: float
    tokens: int
    kernel: str
    provider: str
    cases: tuple[CaseResult, ...]
    longest: int
    not_reached: tuple[str, ...]
    wanted: int
    original: CaseResult | None

    @property
    def passed(self) -> bool:
        """True where the two agree."""
        return self.relative_error <= self.tolerance  # false for NaN

    @property
    def worst(self) -> CaseResult:
        """The case with the largest error."""
        return max(self.cases, key=lambda case: (np.isnan(case.relative_error), case.relative_error))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "passed": self.passed}


def check(result: ExportResult, out: Path, library: Path | None, tokens: int | None = None) -> CheckResult:
    """Compare the exported model at `out` with PyTorch. `library` is None where only the fallback function can run.

    `tokens` is the length of the longest sequence, by default what the model declares, as far as a minute or so allows.
    """
    source, options = result.parameters.source, result.options
    exported = ExportedModel(out, library, options.target)
    parameters = result.report["totals"]["parameters"]
    with scratch(out.parent, "check") as place:
        write_dequantized(result, out, place)
        reference = Reference(place, source.directory)
    lengths = plan(reference.config, parameters, 0 if exported.last else exported.width, tokens, result.graph.positions)
    ids = token_ids(source, lengths.tokens, reference.rows)
    found: list[CaseResult] = []
    first: tuple[Case, list[np.ndarray]] | None = None
    for case in cases(ids, lengths):
        got = exported.logits(case, lengths.restart)
        found.append(_distance(case.name, got, expected_logits(reference, case, lengths, exported.last)))
        first = first or (case, got)
    assert first is not None
    reference.close()
    original = None
    if source.quantization is None:
        original = _original(source.directory, reference.structure, *first, lengths, exported.last)
    return _result(result, library, exported.provider, found, lengths, original)


def _original(
    directory: Path, structure: dict[str, Any], case: Case, got: list[np.ndarray], lengths: Plan, last: bool
) -> CaseResult:
    """The distance of `got` from the model in `directory`, whose structure has to be that of its dequantized copy."""
    original = Reference(directory, directory)
    for key in original.structure.keys() | structure.keys():
        one, other = original.structure.get(key), structure.get(key)
        if one != other:
            raise DualBinaryError(
                f"{directory}: {key} is {one} as transformers loads it, and {other} with the weights of the export, so "
                "--check would compare with another model"
            )
    return _distance(case.name, got, expected_logits(original, case, lengths, last))


def _distance(name: str, got: list[np.ndarray], expected: list[np.ndarray]) -> CaseResult:
    exported, reference = np.concatenate(got), np.concatenate(expected)
    error = float(np.abs(exported - reference).max() / np.abs(reference).max())
    divergence = 0.0
    for begin in range(0, len(reference), _ROWS):
        rows = slice(begin, begin + _ROWS)
        p, q = (torch.from_numpy(x[rows]).double().log_softmax(-1) for x in (reference, exported))
        divergence += (p.exp() * (p - q)).sum().item()
    top1 = float((exported.argmax(1) == reference.argmax(1)).mean())
    return CaseResult(name, len(reference), error, divergence / len(reference), top1)


def _result(
    result: ExportResult,
    library: Path | None,
    provider: str,
    found: list[CaseResult],
    lengths: Plan,
    original: CaseResult | None,
) -> CheckResult:
    tokens = sum(case.tokens for case in found)
    # For CUDA attention is float16 whatever the rest is.
    dtype = "fp16" if result.options.target == "cuda" else result.options.activations
    return CheckResult(
        relative_error=float(np.max([case.relative_error for case in found])),  # NaN where one is
        kl=sum(case.kl * case.tokens for case in found) / tokens,
        top1=sum(case.top1 * case.tokens for case in found) / tokens,
        tolerance=max(_TOLERANCES[dtype, result.options.accuracy_level], _CACHE_TOLERANCES[result.options.cache_type]),
        tokens=tokens,
        kernel="library" if library is not None else "fallback",
        provider=provider,
        cases=tuple(found),
        longest=lengths.tokens,
        not_reached=tuple(map(str, lengths.not_reached)),
        wanted=max((limit.wanted for limit in lengths.not_reached), default=lengths.tokens),
        original=original,
    )
