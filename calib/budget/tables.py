"""What bits of the vocabulary tables cost: the KL divergence of the whole model, measured.

Tables are few and their bits are too, so each is tried: both tables in planes, all layers in full precision. They are
fitted to their weights. A run chooses those of the head in the metric of its inputs (calib.stages.tables), which leaves
a share of the error of its outputs that some rows tell, as for layers (sensitivity.py). So what the head adds to the KL
of the embedding alone counts by that share.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from calib.layers import full_precision
from calib.losses import chunk_size, kl_divergence
from calib.models.blocks import autocast
from calib.models.head import head_of
from calib.models.tables import TablePlace, attach_table, detach_tables, table_places
from calib.quant_table import row_slices
from calib.stages.context import RunContext
from calib.weight_init.data_free import closed_form
from calib.weight_init.error_feedback import inverse_factor
from dualbinary.contract.weight import PlaneFormat

__all__ = ["measure_tables"]

USED = 2  # windows
ROWS = 512  # of the head that tell the share


@torch.no_grad()
def measure_tables(context: RunContext, windows: Tensor, forms: Sequence[PlaneFormat]) -> list[float]:
    """The KL, nats a token, of both tables in each of `forms`; the model must be loaded, in full precision."""
    source, device, dtype = context.source, context.team.device, context.dtype
    head, vocabulary = head_of(source.model, device, dtype)
    used = [window.to(device, torch.int64) for window in windows[:USED]]

    def hidden(window: Tensor) -> Tensor:
        with autocast(device, dtype):
            return source.model.base_model(input_ids=window[None], use_cache=False).last_hidden_state[0]

    with full_precision(source.model):
        teachers = [hidden(window) for window in used]
    rows = torch.cat(teachers).float()
    metric = rows.T @ rows / len(rows)
    found = []
    for index, form in enumerate(forms):
        shares = [_attach(context, place, form, metric) for place in table_places(source)]
        table = next(table for table in source.tables if table.heads)
        own = partial(head, product=table.product)
        both = embedding = 0.0
        for window, teacher in zip(used, teachers, strict=True):
            student = hidden(window)
            for begin in range(0, len(student), chunk := chunk_size(vocabulary)):
                part = slice(begin, begin + chunk)
                wanted = head(teacher[part])
                both += float(kl_divergence(wanted, own(student[part])).sum())
                embedding += float(kl_divergence(wanted, head(student[part])).sum())
        detach_tables(source)
        share = next(share for share in shares if share is not None)
        found.append((embedding + share * max(0.0, both - embedding)) / len(rows))
        context.progress("tables", index + 1, len(forms))
    return found


def _attach(context: RunContext, place: TablePlace, form: PlaneFormat, metric: Tensor) -> float | None:
    """Give the model the table in planes; the share of the error of a head's outputs that feedback leaves."""
    V, H = place.shape
    weight: Any = place.module.weight
    rotation = context.source.rotation_of(H)
    turned = weight if rotation is None else _Rotated(weight, rotation)
    parts = [closed_form(turned[rows].float(), form, place.name) for rows in row_slices(V, H)]
    planes = torch.cat([part.planes for part in parts], 1)
    scales = torch.cat([part.scales for part in parts], 1)
    table = attach_table(context.source, place, form, planes, scales, rotation)
    if place.head is None:
        return None
    some = torch.linspace(0, V - 1, min(ROWS, V)).long()
    own = metric if rotation is None else rotation(rotation(metric).T)
    error = turned[some].float() - table.whole(torch.float32)[some]
    diagonal = inverse_factor(own, context.config.init.damping).diagonal()
    without = float(((error @ own) * error).sum())
    return float((error.square() / diagonal.square()).sum()) / without if without else 0.0


class _Rotated:
    """Rows of a weight in a rotated basis, made as they are asked for."""

    def __init__(self, weight: Tensor, rotation: Any) -> None:
        self._weight, self._rotation = weight, rotation

    def __getitem__(self, rows: Any) -> Tensor:
        return self._rotation(self._weight[rows])
