"""Choice of the generated sequences to distill on: by default those where student and teacher differ most.

    discrepancy of a sequence  =  mean over its tokens of KL(Pt || Ps),    the student as it enters distillation

QBB (NeurIPS 2024) keeps the K sequences of highest discrepancy and does not say which measure it takes. Here it is KL,
for every loss: logits that nobody would draw have no say in it, and scores of two runs mean the same. The danger of
such a choice is that text which no one writes may score high: so the record has the share of distinct tokens of every
sequence beside its score.

Held-out windows are never chosen from. Scores depend on sequences, model and initial state alone; they are kept in the
work directory, and a run with --scores takes those of another one.
"""

import hashlib
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calib.loss_weights import LossWeights
from calib.stages.context import RunContext
from calib.stages.objective import DistillationObjective
from dualbinary import InputError
from dualbinary.files.json_objects import read_json_object

__all__ = ["RECORD_KEY", "choose"]

RESULT = "scores"  # in the work directory
RECORD_KEY = "filter"  # in the record of a run
STORE_EVERY = 16  # sequences; scoring one takes about as long as half a step of distillation


def choose(context: RunContext, candidates: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """The `keep` of `candidates` int [n, T] that `keep_by` says, in their order, and a record of it.

    The layers are as distillation gets them. By "random" a larger number keeps what a smaller one does, as by
    "discrepancy". The record is a JSON object:

        by, candidates        what was chosen by, and n
        chosen                indices of what is kept, in order
        scores, distinct      of each candidate: its discrepancy (null where nobody asked), its share of distinct tokens
        sequences             a digest of the candidates

    Raises InputError where there are fewer candidates, or scores that are of others.
    """
    config = context.config.data
    if config.keep > len(candidates):
        raise InputError(
            f"--keep {config.keep}: {len(candidates)} sequences are there to choose from beside those held out; "
            "generate more, or keep fewer"
        )
    digest = hashlib.sha256(candidates.int().contiguous().numpy().tobytes()).hexdigest()
    scores = None
    if config.keep_by == "random":
        order = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(context.config.seed))
    else:
        if config.scores is None:
            scores = _scores(context, candidates)
        else:
            scores = _stored(Path(config.scores), digest, len(candidates))
        order = scores.argsort(descending=True, stable=True)
    chosen = order[: config.keep].sort().values
    return candidates[chosen], {
        "by": config.keep_by,
        "candidates": len(candidates),
        "chosen": chosen.tolist(),
        "scores": None if scores is None else scores.tolist(),
        "distinct": [len(window.unique()) / len(window) for window in candidates],
        "sequences": digest,
    }


def _scores(context: RunContext, candidates: Tensor) -> Tensor:
    """The discrepancy of each candidate, float64 [n]; each process sees its share of them."""
    work, team = context.work, context.team
    known = work.read_tensors(RESULT)[0][RESULT].tolist() if work.has(RESULT) else []
    count, length = candidates.shape
    objective = DistillationObjective(context.source, LossWeights(kl=1), team.device, context.dtype)
    while len(known) < count:
        found = [0.0] * team.size
        index = len(known) + team.rank
        # Sharded processes must make equally many passes, so some sequence may be seen for nothing.
        with torch.no_grad():
            found[team.rank] = objective.losses(candidates[index % count][None])["kl"]
        known += team.total(found)[: count - len(known)]
        if team.leads and (len(known) % STORE_EVERY < team.size or len(known) == count):
            work.write_tensors(RESULT, {RESULT: torch.tensor(known, dtype=torch.float64)}, {})
        context.progress("filter", len(known) * length, count * length)
    return torch.tensor(known, dtype=torch.float64)


def _stored(file: Path, digest: str, count: int) -> Tensor:
    """The scores in the record of another run. Raises InputError where they are not those of these sequences."""
    found = read_json_object(file).get(RECORD_KEY)
    scores = found.get("scores") if isinstance(found, dict) and found.get("sequences") == digest else None
    numbers = isinstance(scores, list) and all(isinstance(one, float) and math.isfinite(one) for one in scores)
    if not isinstance(scores, list) or not numbers or len(scores) != count:
        raise InputError(
            f"{file}: has no scores of these {count} sequences; expected the calibration.json of a run with --keep "
            "that had the same sequences, --seed and --e2e-held-out"
        )
    return torch.tensor(scores, dtype=torch.float64)
