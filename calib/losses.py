"""Losses of distillation: per-token functions of logits and block outputs, and one gradient for a whole sequence.

With Pt and Ps the teacher's and the student's distributions over a vocabulary of V, zt and zs their logits, y
the token that follows, and ft[l], fs[l] in R^H what block l returns:

    CE  = -log Ps[y]
    KL  = sum over v of Pt[v] * (log Pt[v] - log Ps[v])
    DAD = omega * KL,   omega = H(Pt)^gamma * H(Ps)^(1-gamma) / its mean over the sequence,   H(P) = -sum of P log P
    MSE = mean over v of (d[v] - mean of d)^2,   d = zs - zt
    F   = sum over l of || fs[l] - ft[l] ||^2 / || ft[l] ||^2

DAD is the deviation-aware distillation of DB-LLM (arXiv 2402.11960): tokens where the two are unsure weigh more. The
paper writes -sum of Pt log Ps in place of KL; since omega is detached, the two differ by what no weight of the student
changes. Were omega not detached, the student could lower the loss by becoming sure of itself. Divided by its mean,
it leaves the learning rate's meaning alone; the mean is over one sequence, so that a batch may be split at will.

MSE and F are the loss of QBB (NeurIPS 2024), there plain sums of squares with two unknown weights. Two things
differ here. A softmax does not see what shifts all logits of a token alike, which in a real model is most of d, so MSE
leaves its mean out; `mse_shift` leaves it in, as QBB does. And F divides by the size of ft[l] at each token: the first
token of many models is thousands of times as large as all others, and deep blocks are larger than early ones, so that a
plain sum would be about that token in those blocks. F needs no logits: `pulled` takes it where a block returns.

The loss of a sequence is the mean over its tokens of  kl * KL + ce * CE + dad * DAD + mse * MSE + features * F.

Logits are wide (a vocabulary of 128k and 2,048 tokens make 1 GiB in float32), so `sequence_loss` goes through a few
tokens at a time and returns the gradient at the head's input. With respect to the student's logits it is

    dKL = Ps - Pt,   dCE = Ps - onehot(y),   dDAD = omega * dKL,   dMSE = 2 (d - mean of d) / V,

and since a head treats every token alone, omega may multiply the gradient at the head's input, once its mean is known.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from calib.loss_weights import LossWeights

__all__ = [
    "SequenceLoss",
    "chunk_size",
    "cross_entropy",
    "dad_weights",
    "entropy",
    "feature_error",
    "kl_divergence",
    "logit_error",
    "pulled",
    "sequence_loss",
]

LOGIT_TERMS = ("kl", "ce", "dad", "mse")
MIN_ENTROPY = 1e-4  # nats; below it H^gamma would make a token's weight a matter of rounding

# Logits at a time: matrix products of few tokens are slow, and more would only take more memory.
CHUNK_ELEMENTS = 8 << 20
MIN_CHUNK = 128
TILE_ELEMENTS = 1 << 19  # of them in float32 at a time, five times, so that a CPU's passes over them stay in its cache


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-log Ps[y] of each token: [T] from student logits [T, V] and int64 targets [T]."""
    return -_log_probabilities(logits).gather(-1, targets[:, None])[:, 0]


def kl_divergence(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """KL(Pt || Ps) of each token, the forward one: [T] from two times logits [T, V]."""
    teacher = _log_probabilities(teacher_logits)
    return (teacher.exp() * (teacher - _log_probabilities(student_logits))).sum(-1)


def entropy(logits: Tensor) -> Tensor:
    """H(P) = -sum of P log P of each token, in nats: [T] from logits [T, V]; between 0 and log V."""
    log_probabilities = _log_probabilities(logits)
    return -(log_probabilities.exp() * log_probabilities).sum(-1)


def dad_weights(teacher_entropy: Tensor, student_entropy: Tensor, gamma: float) -> Tensor:
    """Omega [T] of DAD (arXiv 2402.11960) for the tokens of one sequence, from their entropies [T]; no gradient."""
    teacher, student = (h.detach().clamp_min(MIN_ENTROPY) for h in (teacher_entropy, student_entropy))
    omega = teacher**gamma * student ** (1 - gamma)
    return omega / omega.mean()


def logit_error(teacher_logits: Tensor, student_logits: Tensor, *, shift: bool = False) -> Tensor:
    """MSE of each token, with the mean of d if asked for: [T] from two times logits [T, V]."""
    teacher, student = (z if z.dtype == torch.float64 else z.float() for z in (teacher_logits, student_logits))
    apart = student - teacher
    return (apart if shift else apart - apart.mean(-1, keepdim=True)).square().mean(-1)


def feature_error(student: Tensor, teacher: Tensor) -> Tensor:
    """||fs - ft||^2 / ||ft||^2 of each token: [..., T] from hidden states [..., T, H], the teacher's float."""
    return (student.to(teacher.dtype) - teacher).square().mean(-1) * _token_weight(teacher)


def pulled(student: Tensor, teacher: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """`student` [..., T, H] itself, and the mean of its `feature_error` over the tokens, [...].

    Back through the first goes, beside what comes in, the gradient of `factor` times the sum of the second, which has
    none of its own. So a block's output is pulled toward the teacher's on the way, and only the pull is kept.
    """
    return _Pull.apply(student, teacher, factor)


class _Pull(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, factor: float) -> tuple[Tensor, Tensor]:
        error = feature_error(student, teacher).mean(-1)
        if ctx.needs_input_grad[0]:
            scale = _token_weight(teacher)[..., None] * (2 * factor / (teacher.shape[-1] * teacher.shape[-2]))
            ctx.save_for_backward((student.to(teacher.dtype) - teacher).mul_(scale))
        ctx.mark_non_differentiable(error)
        return student.view_as(student), error

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, incoming: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (pull,) = ctx.saved_tensors
        return incoming + pull.to(incoming.dtype), None, None


def _token_weight(teacher: Tensor) -> Tensor:
    """1 / mean square of each token's hidden state: [..., T] from [..., T, H]."""
    return 1 / teacher.square().mean(-1).clamp_min(torch.finfo(teacher.dtype).tiny)


class SequenceLoss(NamedTuple):
    """The loss of one sequence of T tokens and its gradient, without the terms of block outputs.

    Attributes:
        losses: means over the tokens: "loss" (the weighted sum), "ce", "kl" and "dad" where there is a teacher, and
            "mse" where it has a weight.
        gradient: d loss / d hidden states [T, H] of the student, in their dtype; None where it was not asked for.
        per_token: the same terms and both entropies, float32 [T]; those of the teacher only where there is one.
    """

    losses: dict[str, float]
    gradient: Tensor | None
    per_token: dict[str, Tensor]


def chunk_size(vocabulary: int) -> int:
    """The number of tokens that `sequence_loss` had best take at a time."""
    return max(MIN_CHUNK, CHUNK_ELEMENTS // vocabulary)


def sequence_loss(
    student: Tensor,
    teacher: Tensor | None,
    targets: Tensor,
    head: Callable[[Tensor], Tensor],
    weights: LossWeights,
    chunk: int,
    *,
    gradient: bool = True,
    teacher_head: Callable[[Tensor], Tensor] | None = None,
) -> SequenceLoss:
    """The loss of one sequence and its gradient, without a tensor that spans [T, V].

    `student` and `teacher` are hidden states [T, H], `targets` int64 [T] the tokens that follow, and `head` makes
    logits [t, V] of hidden states [t, H], each token for itself; autograd takes the gradient through it, once for every
    token unless DAD has a weight. `teacher_head` is the teacher's, where it is another one. `chunk` tokens are taken at
    a time. `teacher` may be None where the weights need none.
    """
    if teacher is None and weights.needs_teacher:
        raise ValueError("sequence_loss: these weights need hidden states of the teacher")
    direct, distilled = torch.zeros_like(student), torch.zeros_like(student)
    # DAD's gradient goes into its own tensor, for the factors that come last, and KL's goes with it.
    mixtures: list[tuple[Tensor, _Mixture]] = []
    if gradient and weights.dad:
        mixtures.append((distilled, _Mixture(1, 0, 0)))
    if gradient and (weights.ce + weights.mse > 0 or not weights.dad):
        mixtures.append((direct, _Mixture(0 if weights.dad else weights.kl, weights.ce, weights.mse)))
    workspace: _Workspace | None = None
    terms: list[dict[str, Tensor]] = []
    for start in range(0, len(student), chunk):
        rows = slice(start, start + chunk)
        here = student[rows].detach().requires_grad_(gradient)
        with torch.set_grad_enabled(gradient):
            logits = head(here)
        with torch.no_grad():
            teacher_logits = None if teacher is None else (teacher_head or head)(teacher[rows])
        workspace = workspace or _Workspace(logits, len(mixtures))
        # Autocast would take some of the operations in 16 bits.
        with torch.autocast(logits.device.type, enabled=False):
            wanted = [mixture for _, mixture in mixtures]
            terms += workspace.fill(logits.detach(), teacher_logits, targets[rows], weights, wanted)
        for index, (result, _) in enumerate(mixtures):
            into = workspace.gradients[index, : len(logits)]
            (result[rows],) = torch.autograd.grad(logits, here, into, retain_graph=index + 1 < len(mixtures))
    per_token = {name: torch.cat([part[name] for part in terms]) for name in terms[0]}
    if teacher is not None:
        omega = dad_weights(per_token["teacher_entropy"], per_token["student_entropy"], weights.gamma)
        per_token["dad"] = omega * per_token["kl"]
        if gradient and weights.dad:
            direct.addcmul_(distilled, (weights.kl + weights.dad * omega)[:, None].to(distilled.dtype))
    per_token["loss"] = sum(
        (getattr(weights, name) * per_token[name] for name in LOGIT_TERMS if name in per_token),
        start=torch.zeros_like(per_token["ce"]),
    )
    names = [name for name in ("loss", *LOGIT_TERMS) if name in per_token]
    means = torch.stack([per_token[name].mean() for name in names]).tolist()  # one wait for the device
    return SequenceLoss(
        dict(zip(names, means, strict=True)), direct.div_(len(student)) if gradient else None, per_token
    )


class _Mixture(NamedTuple):
    """Weights of the terms whose gradients with respect to logits are added up."""

    kl: float
    ce: float
    mse: float


class _Softmax:
    """A softmax over t tokens in two buffers [t, V]: z = logits - their maximum, and e = exp(z); P = e / sum.

    A pass over [t, V] is what costs time here, and on a CPU so does a fresh [t, V]: hence buffers that are kept, and
    log P = z - log(sum) and P never made.
    """

    def __init__(self, z: Tensor, e: Tensor, product: Tensor, logits: Tensor) -> None:
        self.z, self.e, self._product = z, e, product
        self.z.copy_(logits)
        self.largest = self.z.amax(-1, keepdim=True)
        self.z -= self.largest
        torch.exp(self.z, out=self.e)
        self.sum = self.e.sum(-1)
        self.log_sum = self.sum.log()

    def mean(self, values: Tensor) -> Tensor:
        """Sum over v of P[v] * values[v]: [t] from [t, V]."""
        return torch.mul(self.e, values, out=self._product).sum(-1) / self.sum

    def entropy(self) -> Tensor:
        return self.log_sum - self.mean(self.z)


class _Workspace:
    """Buffers for the tokens of a chunk, and the work on them.

    Attributes:
        gradients: [mixtures, chunk, V] in the dtype of logits, the gradients of the last chunk with respect to them.
    """

    def __init__(self, logits: Tensor, mixtures: int) -> None:
        """`logits` [chunk, V] are those of the first chunk."""
        chunk, V = logits.shape
        tile = min(chunk, max(1, TILE_ELEMENTS // V)) if logits.device.type == "cpu" else chunk
        wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
        self._buffers = torch.empty((5, tile, V), dtype=wide, device=logits.device)
        self.gradients = torch.empty((mixtures, chunk, V), dtype=logits.dtype, device=logits.device)

    def fill(
        self,
        student: Tensor,
        teacher: Tensor | None,
        targets: Tensor,
        weights: LossWeights,
        mixtures: list[_Mixture],
    ) -> list[dict[str, Tensor]]:
        """The terms of a chunk, tile after tile; `gradients` get those of `mixtures`."""
        terms: list[dict[str, Tensor]] = []
        tile = self._buffers.shape[1]
        for begin in range(0, len(student), tile):
            rows = slice(begin, begin + tile)
            part = _Tile(self._buffers, student[rows], None if teacher is None else teacher[rows], targets[rows])
            terms.append(part.terms(weights))
            for gradient, mixture in zip(self.gradients, mixtures, strict=True):
                gradient[: len(student)][rows].copy_(part.gradient(mixture))
        return terms


class _Tile:
    """Terms and gradients of the few tokens whose buffers, [5, tile, V], a CPU keeps in its cache."""

    def __init__(self, buffers: Tensor, student: Tensor, teacher: Tensor | None, targets: Tensor) -> None:
        self.targets = targets
        z, e, teacher_z, teacher_e, self._product = (buffer[: len(student)] for buffer in buffers)
        self.student = _Softmax(z, e, self._product, student)
        self.teacher = None if teacher is None else _Softmax(teacher_z, teacher_e, self._product, teacher)

    def terms(self, weights: LossWeights) -> dict[str, Tensor]:
        """Each [t], MSE where it has a weight. The teacher's z becomes -d, or what of it counts."""
        student, teacher = self.student, self.teacher
        terms = {
            "ce": student.log_sum - student.z.gather(-1, self.targets[:, None])[:, 0],
            "student_entropy": student.entropy(),
        }
        if teacher is not None:
            terms["teacher_entropy"] = teacher.entropy()
            teacher.z -= student.z
            terms["kl"] = teacher.mean(teacher.z) - teacher.log_sum + student.log_sum
            if weights.mse:
                shift = student.largest - teacher.largest if weights.mse_shift else teacher.z.mean(-1, keepdim=True)
                teacher.z -= shift
                terms["mse"] = torch.square(teacher.z, out=self._product).mean(-1)
        return terms

    def gradient(self, mixture: _Mixture) -> Tensor:
        """D (kl * KL + ce * CE + mse * MSE) / d logits, [t, V]. Overwrites the student's z."""
        kl, ce, mse = mixture
        result = torch.mul(self.student.e, ((kl + ce) / self.student.sum)[:, None], out=self.student.z)
        if kl and self.teacher is not None:
            result.addcmul_(self.teacher.e, (-kl / self.teacher.sum)[:, None])
        if mse and self.teacher is not None:
            result.add_(self.teacher.z, alpha=-2 * mse / result.shape[1])
        if ce:
            result[torch.arange(len(result), device=result.device), self.targets] -= ce
        return result


def _log_probabilities(logits: Tensor) -> Tensor:
    """Log P [T, V], in float32 or better."""
    return (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(-1)
