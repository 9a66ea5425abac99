"""Measurements of a calibration about its layers and about the words that a model prefers.

Of one layer with weight W [N, K], its quantized form W' = W0 + W1 + ... + WP (W0 the offsets' part, Wp the part of
plane p) and the hessian H = E[x x^T] [K, K] of its inputs, for A, B [N, K] and <A, B> = tr(A H B^T) = E[Ax . Bx]:

    weight_error        |W - W'|^2 / |W|^2
    output_error        <E, E> / <W, W>,  E = W - W'
    corr(A, B)          <A, B> / sqrt(<A, A> <B, B>): the correlation of two outputs over all inputs and outputs
    corr_paths[p]       corr(Wp, Wp+1): negative where a plane takes back what the one before gave
    corr_residual[p]    corr(W - W0 - ... - Wp, Wp+1): how well a plane fits what the ones before left over

The two correlations are those of RaBiT (arXiv 2602.05367), about no mean, since H knows of none; with {0, 1} planes
corr_paths is negative by construction wherever a level is a difference of two scales.

Of words: DB-LLM (arXiv 2402.11960) observes that a quantized model prefers frequent tokens, most where its teacher is
unsure. `PreferenceTable` counts that by quartiles of the teacher's entropy, for the argmax and for the probability
mass: the argmax alone overstates a student that is merely less sure.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from calib.even_quantizer import plane_scales, without_zeros
from calib.quantizer import codes_of, grouped, sorted_levels, unpack
from dualbinary.contract.layout import check_tensors
from dualbinary.contract.levels import FREE, Levels
from dualbinary.errors import InputError
from dualbinary.metrics.statistics import WeightStatistics

__all__ = ["CLASSES", "HEAD_SHARE", "MID_SHARE", "PreferenceTable", "frequency_classes", "layer_statistics"]

ROW_BLOCK_WEIGHTS = 1 << 22  # weights at a time: with the parts of two planes and their products about 150 MiB

CLASSES = ("head", "mid", "tail")
HEAD_SHARE = 0.5  # of all occurrences: the most frequent tokens that make it are the head
MID_SHARE = 0.8  # the next ones up to here are the middle
QUARTILES = 4

CHUNK_LOGITS = 1 << 22  # logits at a time: five float32 copies, 80 MiB


@torch.no_grad()
def layer_statistics(
    weight: Tensor,
    planes: Tensor,
    scales: Tensor,
    group_size: int,
    hessian: Tensor | None,
    levels: Levels = FREE,
) -> dict[str, Any]:
    """The figures of one layer, ready for the record of a run.

    `weight` [N, K] of any floating type, `planes` uint8 [P, N, Kp/8 + Z] in layout 1, `scales` [C, N, Kp/G], `hessian`
    [K, K] in any scaling or None, `levels` what the planes mean. The part of a plane of even levels is what its bits
    add. The keys: weights (N * K), weight_error, output_error, density (of each plane),
    entropy and huffman_bits (of the codes, bits per weight), level_shares (share of the weights at the lowest level of
    their group, at the next, and so on), corr_paths and corr_residual (P-1 values each). Errors are relative and 0 for
    a weight of zeros, correlations 0 where one side is constantly 0; output_error and the correlations are None without
    `hessian`.

    Raises InputError where the tensors do not fit together.
    """
    N, K = weight.shape
    check_tensors(planes.cpu().numpy(), scales.detach().float().cpu().numpy(), N, K, group_size, levels=levels)
    if hessian is not None and hessian.shape != (K, K):
        raise InputError(f"hessian: expected [{K}, {K}] for a weight of {K} inputs, got {list(hessian.shape)}")
    planes = planes.to(weight.device)
    scales = scales.to(weight.device, torch.float32)
    metric = None if hessian is None else hessian.to(weight.device, torch.float32)
    planes, zeros = without_zeros(planes, levels, K, group_size)
    if levels.even:
        counts, shares = _number_counts(planes, scales, K, group_size)
        scales = plane_scales(scales, levels, len(planes), zeros)
    else:
        counts, shares = _code_counts(planes, scales, K, group_size)
    statistics = WeightStatistics(N * K, 0, tuple(counts))
    squared = torch.zeros(2, dtype=torch.float64)
    gram = torch.zeros((len(planes) + 2,) * 2, dtype=torch.float64)
    step = max(1, ROW_BLOCK_WEIGHTS // K)
    for start in range(0, N, step):
        rows = slice(start, start + step)
        wanted = weight[rows].float()
        parts = _parts(planes[:, rows], scales[:, rows], K, group_size)
        error = wanted - sum(parts)
        squared += torch.stack([_inner(error, error), _inner(wanted, wanted)])
        if metric is not None:
            _add_gram(gram, [error, *parts], metric)
    figures: dict[str, Any] = {
        "weights": N * K,
        "weight_error": _ratio(*squared.tolist()),
        "output_error": None,
        "density": list(statistics.density),
        "entropy": statistics.entropy,
        "huffman_bits": statistics.huffman_bits,
        "level_shares": [share / (N * K) for share in shares],
        "corr_paths": None,
        "corr_residual": None,
    }
    return figures if metric is None else {**figures, **_output_figures(gram)}


def _code_counts(planes: Tensor, scales: Tensor, K: int, group_size: int) -> tuple[list[int], list[int]]:
    """Counts of each code, and of weights at the lowest level of a group, the next, and so on."""
    codes = sum(bits << plane for plane, bits in enumerate(unpack(planes, K)))
    assert isinstance(codes, Tensor)
    padded = grouped(codes, group_size)
    of_group = torch.stack([(padded == code).sum(-1) for code in range(1 << len(planes))])  # [2^P, N, groups]
    of_group[0, :, -1] -= padded.shape[1] * group_size - K  # padding counts as code 0
    by_level = of_group.gather(0, sorted_levels(scales, len(planes)).order)
    return of_group.sum((1, 2)).tolist(), by_level.sum((1, 2)).tolist()


def _number_counts(planes: Tensor, scales: Tensor, K: int, group_size: int) -> tuple[list[int], list[int]]:
    """The same of even levels, which are as many as 256: levels lie in the order of numbers, or the other way."""
    numbers = codes_of(planes, K)
    falling = (scales[0] < 0)[..., None].expand(-1, -1, group_size).flatten(1)[:, :K]
    by_level = torch.where(falling, (1 << len(planes)) - 1 - numbers, numbers)
    counted = (torch.bincount(one.flatten(), minlength=1 << len(planes)) for one in (numbers, by_level))
    counts, shares = (one.tolist() for one in counted)
    return counts, shares


def _parts(planes: Tensor, scales: Tensor, K: int, group_size: int) -> list[Tensor]:
    """The parts of each plane, and last of the offset if there is one, in the quantized weight: float32 [N, K] each."""
    bits = grouped(unpack(planes, K), group_size)
    parts = [plane * scale[..., None] for plane, scale in zip(bits, scales, strict=False)]
    if len(scales) > len(planes):
        parts.append(scales[-1][..., None].expand(bits.shape[1:]))
    return [part.flatten(1)[:, :K] for part in parts]


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1).cpu().sum(dtype=torch.float64)  # not every device has float64


def _add_gram(gram: Tensor, matrices: list[Tensor], metric: Tensor) -> None:
    """Add <A, B> of all pairs to the corner of `gram` that they need."""
    for i, a in enumerate(matrices):
        outputs = a @ metric
        for j in range(i + 1):
            gram[i, j] += (product := _inner(outputs, matrices[j]))
            if j < i:
                gram[j, i] += product


def _output_figures(gram: Tensor) -> dict[str, Any]:
    """The figures that need H, from <A, B> of the error, the planes and the offset (0 without), in this order."""
    planes = len(gram) - 2
    everything = torch.ones(len(gram), dtype=gram.dtype)
    units = torch.eye(len(gram), dtype=gram.dtype)

    def inner(a: Tensor, b: Tensor) -> float:
        return float(a @ gram @ b)

    def correlation(a: Tensor, b: Tensor) -> float:
        size = max(inner(a, a), 0.0) * max(inner(b, b), 0.0)
        return float(np.clip(inner(a, b) / size**0.5, -1, 1)) if size else 0.0  # clip lets NaN through

    paths, residuals = [], []
    for plane in range(1, planes):
        # What planes 1 to `plane` leave over is the error and what the later planes give.
        left = units[0] + units[plane + 1 : planes + 1].sum(0)
        paths.append(correlation(units[plane], units[plane + 1]))
        residuals.append(correlation(left, units[plane + 1]))
    return {
        "output_error": _ratio(max(inner(units[0], units[0]), 0.0), inner(everything, everything)),
        "corr_paths": paths,
        "corr_residual": residuals,
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def frequency_classes(tokens: Tensor, vocabulary: int) -> Tensor:
    """The class of each token id, int64 [vocabulary] of indices into CLASSES, by how often it occurs in `tokens`.

    The head is the fewest tokens that make half of all occurrences, the middle the next ones up to 80 %; all others,
    also those that never occur, are the tail. Of equally frequent tokens the lower id comes first.
    """
    counts = torch.bincount(tokens.reshape(-1).cpu(), minlength=vocabulary)
    ordered, ids = counts.sort(descending=True, stable=True)
    before = ordered.cumsum(0) - ordered  # occurrences of all that are more frequent
    total = int(counts.sum())
    in_order = (before >= HEAD_SHARE * total).long() + (before >= MID_SHARE * total).long()
    return torch.empty_like(in_order).scatter_(0, ids, in_order)


class PreferenceTable:
    """Counts which class of tokens teacher and student prefer, by how sure the teacher is.

    A row of a few numbers is kept for each position, so that quartiles are of all positions together.
    """

    def __init__(self, classes: Tensor) -> None:
        """`classes` [V] as `frequency_classes` gives them."""
        self._classes = classes.cpu()
        self._rows: list[dict[str, Tensor]] = []

    @torch.no_grad()
    def add(self, teacher_logits: Tensor, student_logits: Tensor, targets: Tensor) -> None:
        """Count positions: logits [..., V] of both models and the ids of the tokens that followed, [...]."""
        width = len(self._classes)
        if teacher_logits.shape != (*targets.shape, width) or student_logits.shape != teacher_logits.shape:
            raise ValueError(
                f"expected logits {[*targets.shape, width]} of both, got {list(teacher_logits.shape)} and "
                f"{list(student_logits.shape)}"
            )
        step = max(1, CHUNK_LOGITS // width)
        classes = self._classes.to(targets.device)
        teachers, students = (logits.reshape(-1, width).split(step) for logits in (teacher_logits, student_logits))
        for teacher, student, target in zip(teachers, students, targets.reshape(-1).split(step), strict=True):
            rows = _preference_rows(teacher.float().log_softmax(1), student.float().log_softmax(1), target, classes)
            self._rows.append({name: values.cpu() for name, values in rows.items()})

    def to_dict(self) -> dict[str, Any]:
        """The table, ready for the record of a run.

        `class_tokens`: how many tokens are of each class. `quartiles`, `all` and `classes`: figures of the positions of
        each quartile of the teacher's entropy (the surest first), of all positions, and of those whose next token is of
        each class. Figures are `positions`; shares of head, mid and tail in `target`, `teacher_argmax`,
        `student_argmax`, `teacher_mass` and `student_mass`; and means in nats, `teacher_entropy`, `student_entropy`,
        `teacher_nll`, `student_nll` and `kl`. They are None where there is no position.

        `balance` says by how much the student leans to frequent tokens against its teacher, 0 where it does not:
        `argmax` and `mass`, the student's head share less its tail share, less the same of the teacher; `nll`, what
        the student loses on tail tokens less what it loses on head tokens.
        """
        rows = {name: torch.cat([part[name] for part in self._rows]) for name in _COLUMNS} if self._rows else {}
        count = len(rows["target"]) if rows else 0
        by_entropy = rows["teacher_entropy"].argsort(stable=True) if rows else torch.empty(0, dtype=torch.long)
        chosen = [torch.arange(count), *by_entropy.tensor_split(QUARTILES)]
        chosen += [(rows["target"] == index).nonzero()[:, 0] if rows else by_entropy for index in range(len(CLASSES))]
        everything, *others = (_figures({name: v[at] for name, v in rows.items()}, len(at)) for at in chosen)
        tokens = torch.bincount(self._classes, minlength=len(CLASSES)).tolist()
        by_class: dict[str, dict[str, Any]] = dict(zip(CLASSES, others[QUARTILES:], strict=True))
        return {
            "class_tokens": dict(zip(CLASSES, tokens, strict=True)),
            "quartiles": others[:QUARTILES],
            "all": everything,
            "classes": by_class,
            "balance": _balance(everything, by_class),
        }


_SHARES = ("target", "teacher_argmax", "student_argmax")  # columns of class indices
_MASSES = ("teacher_mass", "student_mass")
_MEANS = ("teacher_entropy", "student_entropy", "teacher_nll", "student_nll", "kl")
_COLUMNS = (*_SHARES, *_MASSES, *_MEANS)


def _preference_rows(teacher: Tensor, student: Tensor, targets: Tensor, classes: Tensor) -> dict[str, Tensor]:
    """A row for each position, from log probabilities [T, V] and target ids [T]."""
    members = torch.nn.functional.one_hot(classes, len(CLASSES)).float()  # [V, 3]
    teacher_shares, student_shares = teacher.exp(), student.exp()
    return {
        "target": classes[targets],
        "teacher_argmax": classes[teacher.argmax(1)],
        "student_argmax": classes[student.argmax(1)],
        "teacher_mass": teacher_shares @ members,
        "student_mass": student_shares @ members,
        "teacher_entropy": -(teacher_shares * teacher).sum(1),
        "student_entropy": -(student_shares * student).sum(1),
        "teacher_nll": -teacher.gather(1, targets[:, None])[:, 0],
        "student_nll": -student.gather(1, targets[:, None])[:, 0],
        "kl": (teacher_shares * (teacher - student)).sum(1),
    }


def _figures(rows: dict[str, Tensor], count: int) -> dict[str, Any]:
    if not count:
        return {"positions": 0, **dict.fromkeys(_COLUMNS)}
    shares = {name: (torch.bincount(rows[name], minlength=len(CLASSES)).double() / count).tolist() for name in _SHARES}
    masses = {name: rows[name].double().mean(0).tolist() for name in _MASSES}
    means = {name: float(rows[name].double().mean()) for name in _MEANS}
    return {"positions": count, **shares, **masses, **means}


def _balance(everything: dict[str, Any], by_class: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    def lean(name: str) -> float | None:
        teacher, student = everything[f"teacher_{name}"], everything[f"student_{name}"]
        return (student[0] - student[2]) - (teacher[0] - teacher[2]) if everything["positions"] else None

    head, tail = by_class["head"], by_class["tail"]
    lost = [part["student_nll"] - part["teacher_nll"] for part in (tail, head) if part["positions"]]
    return {"argmax": lean("argmax"), "mass": lean("mass"), "nll": lost[0] - lost[1] if len(lost) == 2 else None}
