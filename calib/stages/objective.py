"""Teacher and student on the same windows: losses, and gradients of what trains.

The teacher is the model in full precision, apart from the blocks that are swapped: those are the student's in it, too.
With all of them swapped the two are one and there is nothing to learn; with some, the teacher makes a part of the
student's errors, and the loss is about the other blocks alone. No gradient goes through the teacher.

Losses that look at logits go window by window, in pieces (calib.losses.sequence_loss). Block outputs of the teacher are
kept while the student runs, float32 [batch, T, H] for each block, and each block of the student is pulled toward its
own on the way.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from calib.layers import full_precision
from calib.loss_weights import LossWeights
from calib.losses import chunk_size, pulled, sequence_loss
from calib.models.blocks import autocast, outputs_visited
from calib.models.head import head_of
from calib.models.source import SourceModel

__all__ = ["TERMS", "DistillationObjective"]

TERMS = ("loss", "kl", "ce", "dad", "mse", "features")


class DistillationObjective:
    """Losses and gradients of a loaded model whose layers are quantized, on the device where it is.

    Attributes:
        terms: names of the losses that a pass tells, "loss" (their weighted sum) first.
    """

    def __init__(self, source: SourceModel, weights: LossWeights, device: str, dtype: torch.dtype) -> None:
        """Matrix products are made in `dtype`. Raises InputError where the model's head is not understood."""
        self.model, self.blocks = source.model, [block for _, block in source.blocks]
        self.weights, self.device, self.dtype, self.tables = weights, device, dtype, source.tables
        self.head, vocabulary = head_of(self.model, device, dtype)
        self.chunk = chunk_size(vocabulary)
        unknown = {name for name in ("mse", "features") if not getattr(weights, name)}
        unknown |= set() if weights.needs_teacher else {"kl", "dad"}
        self.terms = [name for name in TERMS if name not in unknown]

    def losses(self, windows: Tensor, *, factor: float | None = None, swapped: Sequence[bool] = ()) -> dict[str, float]:
        """Sums of the losses of `windows` int [batch, T], each a mean over its tokens.

        With a `factor`, the gradient of factor * "loss" is added to that of every parameter that trains. `swapped` says
        of each block whether it is the student's in the teacher as well; none are, if it is left out.
        """
        tokens = windows.to(self.device, torch.int64)
        features: list[Tensor] = []
        teacher = None
        with autocast(self.device, self.dtype):
            if self.weights.needs_teacher:
                teacher = self._teacher(tokens, swapped, features)
            errors: list[Tensor] = []
            with torch.set_grad_enabled(factor is not None):
                student = self._student(tokens, features, errors, factor or 0.0)
        flow = torch.zeros_like(student)
        sums = dict.fromkeys(self.terms, 0.0)
        heads = [table for table in self.tables if table.heads]
        head = partial(self.head, product=heads[0].product) if heads else self.head
        for index, window in enumerate(tokens):
            known = None if teacher is None else teacher[index, :-1]
            found = sequence_loss(
                student[index, :-1],
                known,
                window[1:],
                head,
                self.weights,
                self.chunk,
                gradient=factor is not None,
                teacher_head=self.head,
            )
            for name, value in found.losses.items():
                sums[name] += value
            if found.gradient is not None:
                flow[index, :-1] = found.gradient
        if errors:
            sums["features"] = torch.stack(errors).sum().item()
            sums["loss"] += self.weights.features * sums["features"]
        if factor is not None:
            student.backward(flow.mul_(factor))
            for table in heads:
                table.settle(factor / (tokens.shape[1] - 1))
        return sums

    @torch.no_grad()
    def _teacher(self, tokens: Tensor, swapped: Sequence[bool], features: list[Tensor]) -> Tensor:
        """The teacher's last hidden states; `features` gets its blocks' outputs where the loss asks for them."""

        def keep(_: int, hidden: Tensor) -> Tensor:
            features.append(hidden if hidden.dtype == torch.float64 else hidden.float())
            return hidden

        own = [block for index, block in enumerate(self.blocks) if not (swapped and swapped[index])]
        with full_precision(nn.ModuleList([*own, *self.tables])):
            return self._hidden(tokens, keep)

    def _student(self, tokens: Tensor, features: list[Tensor], errors: list[Tensor], factor: float) -> Tensor:
        """The student's last hidden states; `errors` gets those of its blocks, [batch] each."""

        def pull(index: int, hidden: Tensor) -> Tensor:
            hidden, error = pulled(hidden, features[index], factor * self.weights.features)
            errors.append(error)
            return hidden

        return self._hidden(tokens, pull)

    def _hidden(self, tokens: Tensor, visit: Callable[[int, Tensor], Tensor]) -> Tensor:
        """The input of the head, [batch, T, H]; block outputs pass through `visit` where the loss asks for them."""
        with outputs_visited(self.blocks, visit) if self.weights.features else nullcontext():
            return self.model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
