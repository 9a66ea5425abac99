"""Vocabulary tables in planes: chosen once the layers are, before distillation, which trains their scales too.

    head, or both      error feedback in the metric of the head's inputs, E[h h^T] of the student's last hidden states
    embedding alone    least squares of its weights: whichever rows a text has, each is looked up as it is

Rows are independent, so a table is solved some rows at a time. The initial tables are the result "tables" of the work
directory. Those of a checkpoint to start from are taken as they are, unless other bits are asked for. Where layers are
rotated, so are the rows of a table, and the metric is that of rotated inputs.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calib.layer_formats import SCALE_TYPES
from calib.models.blocks import autocast
from calib.models.stored_checkpoint import StoredCheckpoint
from calib.models.tables import TablePlace, attach_table, table_places
from calib.quant_table import row_slices
from calib.rotation import InputRotation
from calib.scale_parameters import round_parameters, to_parameters, to_scales
from calib.stages.context import RunContext
from calib.student_weight import weight_of_planes
from calib.weight_init.data_free import closed_form
from calib.weight_init.error_feedback import ErrorFeedback, inverse_factor
from dualbinary.contract.weight import PlaneFormat
from dualbinary.fitting.table_forms import table_format
from dualbinary.metrics.formats import format_words

__all__ = ["quantize_tables", "wants_tables"]

RESULT = "tables"  # in the work directory


def wants_tables(context: RunContext) -> bool:
    """Say that the student has tables in planes: they are asked for, or the checkpoint to start from has some."""
    return context.config.format.embedding_bits is not None or bool(_stored_places(context))


def quantize_tables(context: RunContext, tokens: Tensor | None) -> list[dict[str, Any]]:
    """Give the loaded model its tables in planes, and tell about each: name, format, bits and errors.

    `tokens` int [windows, T] are those that the metric is taken over. Every process must call. Raises InputError for
    models whose tables are of another kind.
    """
    work = context.work
    if not work.has(RESULT):
        hessian = _hessian(context, tokens) if tokens is not None else None
        if context.team.leads:
            results, tensors = [], {}
            for table in _wanted(context):
                name = table.place.name
                planes, scales, figures = _solved(context, table, hessian)
                tensors |= {f"{name}.planes": planes, f"{name}.scales": scales}
                results.append({"name": name, **figures})
            work.write_tensors(RESULT, tensors, {"tables": results})
    context.team.wait()  # whatever a process found: barriers pair by their order alone
    tensors, known = work.read_tensors(RESULT)
    for table in _wanted(context):
        planes, scales = (tensors[f"{table.place.name}.{key}"] for key in ("planes", "scales"))
        attach_table(context.source, table.place, table.form, planes, scales, table.rotation)
    return known["tables"]


def _stored_places(context: RunContext) -> list[TablePlace]:
    if context.config.start is None:
        return []
    return StoredCheckpoint(Path(context.config.start)).tables_of(context.source)


@dataclass(frozen=True)
class _Wanted:
    """A table to make, and the checkpoint that has it already."""

    place: TablePlace
    form: PlaneFormat
    rotation: InputRotation | None
    stored: StoredCheckpoint | None = None


def _wanted(context: RunContext) -> list[_Wanted]:
    config, stored = context.config.format, {place.name for place in _stored_places(context)}
    found: list[_Wanted] = []
    for place in table_places(context.source):
        width, bits = place.shape[1], config.embedding_bits
        if place.name in stored:
            checkpoint = StoredCheckpoint(Path(str(context.config.start)))
            form = checkpoint.format_of(place.name).for_inputs(width)
            if bits in (None, form.planes):
                form = replace(form, scale_dtype=SCALE_TYPES[config.scale_type])
                found.append(_Wanted(place, form, checkpoint.rotation_of(place.name, width), checkpoint))
                continue
        if bits is not None:
            form = replace(table_format(bits, width), scale_dtype=SCALE_TYPES[config.scale_type])
            found.append(_Wanted(place, form, context.source.rotation_of(width)))
    return found


@torch.no_grad()
def _hessian(context: RunContext, tokens: Tensor) -> Tensor | None:
    """E[h h^T] float32 [H, H] of the student's last hidden states; None without tokens."""
    model, device = context.source.model, context.team.device
    used = tokens[: context.config.init.windows]
    total, count = None, 0
    for window in used:
        with autocast(device, context.dtype):
            hidden = model.base_model(input_ids=window[None].to(device, torch.int64), use_cache=False).last_hidden_state
        rows = hidden[0].float()
        total = rows.T @ rows if total is None else total.addmm_(rows.T, rows)
        count += len(rows)
        context.progress("tables", count, used.numel())
    return None if total is None else total / count


@torch.no_grad()
def _solved(context: RunContext, table: _Wanted, hessian: Tensor | None) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Planes and scales of a table, some rows at a time, and figures about them."""
    place, form, rotation = table.place, table.form, table.rotation
    V, H = place.shape
    weight: Any = place.module.weight
    solve = partial(closed_form, plane_format=form, name=place.name)
    metric = hessian if place.head is not None else None
    if metric is not None:
        metric = metric if rotation is None else rotation(rotation(metric).T)  # that of rotated inputs
        settings = context.config.init
        factor = inverse_factor(metric, settings.damping)
        solver = ErrorFeedback(settings.refits, settings.polishes, settings.damping)
        solve = partial(solver.solve, factor=factor, plane_format=form, name=place.name)
    parts: list[tuple[Tensor, Tensor]] = []
    sums = torch.zeros(4, dtype=torch.float64)
    given = table.stored.read(place.name, place.shape) if table.stored is not None else None
    for rows in row_slices(V, H):
        full = weight[rows].float() if rotation is None else rotation(weight[rows])
        if given is None:
            state = solve(full)
            planes, scales = state.planes, state.scales
        else:
            planes, scales = (part[:, rows].to(full.device) for part in given)
            scales = to_scales(form, round_parameters(form, to_parameters(form, scales)))
        error = full - weight_of_planes(planes, scales, H, form)
        outputs = [(part @ metric * part).sum() if metric is not None else part.new_zeros(()) for part in (error, full)]
        sums += torch.stack([error.square().sum(), full.square().sum(), *outputs]).cpu().double()
        parts.append((planes.cpu(), scales.cpu()))
        context.progress("tables", rows.stop, V)
    error, norm, output_error, output_norm = sums.tolist()
    figures = {
        "format": format_words(form),
        "weights": V * H,
        "bits_per_weight": form.row_bits(H) / H,
        "weight_error": error / norm if norm else 0.0,
        "output_error": output_error / output_norm if output_norm else None,
    }
    return torch.cat([one[0] for one in parts], 1), torch.cat([one[1] for one in parts], 1), figures
