"""The format of every layer's planes: what a checkpoint stores, what was asked for, or what holds a weight exactly."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from tqdm import tqdm

from dualbinary import OP, padded_k
from dualbinary.contract.layout import CODES
from dualbinary.contract.weight import PlaneFormat, PlaneWeight
from dualbinary.errors import OptionError
from dualbinary.fitting.exact import SAMPLE_ROWS, Exact, find_exact
from exporter.graph.layers import Linear
from exporter.graph.parameters import Parameters
from exporter.options import CUDA_PLANES, ExportOptions

__all__ = ["ExactWeights", "input_orders", "layer_formats", "stored_table_form", "stored_type"]

_CHOSEN_SCALE_DTYPES = {8: np.dtype(np.uint8), 32: np.dtype(np.float32)}  # 16: the file's own
_ROUTERS = (".gate", ".router", ".router.proj")  # of mixtures of experts: tiny, and wrong choices are expensive
_ROW_ELEMENTS = 1 << 22  # read at a time
_MAX_THREADS = 4
KEPT_BYTES = 256 << 20  # of weights that were found exact, whatever the model's size; others are computed again
_TYPES = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32"}


@dataclass(frozen=True, eq=False)
class ExactWeights:
    """What is stored exactly: parameters of layers whose format holds them as their files do.

    Attributes:
        parameters: all of them.
        kept: those whose weight is still in memory, in layout plain; who takes it removes it.
    """

    parameters: frozenset[str] = frozenset()
    kept: dict[str, PlaneWeight] = field(default_factory=dict[str, PlaneWeight])

    def __contains__(self, parameter: object) -> bool:
        return parameter in self.parameters

    def take(self, parameter: str, form: PlaneFormat) -> PlaneWeight | None:
        """The weight in `form`, no longer kept; None where it has to be computed."""
        weight = self.kept.pop(parameter, None)
        return weight if weight is not None and weight.format == form.for_inputs(weight.K) else None


def layer_formats(
    linears: Iterable[Linear], parameters: Parameters, options: ExportOptions, progress: bool
) -> tuple[dict[Linear, PlaneFormat], ExactWeights]:
    """The formats of the layers that get planes, and the weights that theirs hold exactly as they are stored."""
    if parameters.source.quantization is not None:
        stored = {linear: _stored_format(linear, parameters, options) for linear in linears}
        return {linear: form for linear, form in stored.items() if form is not None}, ExactWeights()
    fitted = [linear for linear in linears if not linear.module.endswith(_ROUTERS)]
    most = CUDA_PLANES if options.target == "cuda" else OP.limits["max_planes"]
    found = _exact_forms(fitted, parameters, progress) if options.finds_exact_forms else ()
    exact = {linear: each for linear, each in found if each is not None and each.form.planes <= most}
    forms = {linear: exact[linear].form if linear in exact else _fit_format(linear, options) for linear in fitted}
    kept = {linear.parameter: each.weight for linear, each in exact.items() if each.weight is not None}
    names = frozenset(linear.parameter for linear in exact)
    return {linear: _laid_out(form, options) for linear, form in forms.items()}, ExactWeights(names, kept)


def input_orders(linears: Iterable[Linear], parameters: Parameters) -> dict[Linear, np.ndarray]:
    """The orders of inputs, int32 [K], of the layers of a checkpoint whose planes have another one than X."""
    if parameters.source.quantization is None:
        return {}
    orders = {linear: parameters.input_order(linear.parameter) for linear in linears}
    return {linear: order for linear, order in orders.items() if order is not None}


def stored_type(parameter: str, parameters: Parameters) -> str | None:
    """The name of the type that a parameter is stored in; None for one that no exact form is looked for in."""
    return _TYPES.get(parameters[parameter].dtype)


def _exact_forms(
    linears: Sequence[Linear], parameters: Parameters, progress: bool
) -> Iterator[tuple[Linear, Exact | None]]:
    kept = 0

    def search(linear: Linear) -> Exact | None:
        nonlocal kept  # of several threads each may go beyond the limit by a layer
        stored = stored_type(linear.parameter, parameters)
        if stored is None:
            return None
        step = max(SAMPLE_ROWS, _ROW_ELEMENTS // linear.K)

        def rows() -> Iterator[np.ndarray]:
            return (part.numpy() for part in parameters.read_rows(linear.parameter, step, torch.float32))

        found = find_exact(rows, stored, keep=kept < KEPT_BYTES)
        if found is None:
            return None
        kept += 0 if found.weight is None else found.weight.planes.nbytes + found.weight.scales.nbytes
        return found._replace(form=found.form.for_inputs(linear.K))

    shown = {"unit": "layer", "desc": "exact forms", "file": sys.stderr, "leave": False}
    with ThreadPoolExecutor(min(os.cpu_count() or 1, _MAX_THREADS)) as pool:
        found = tqdm(pool.map(search, linears), total=len(linears), disable=not progress, **shown)
        yield from zip(linears, found, strict=True)


def _fit_format(linear: Linear, options: ExportOptions) -> PlaneFormat:
    form = options.fit_form
    # A row shorter than a group is one group.
    group_size = min(form.group_size, padded_k(linear.K, OP.limits["group_multiple"]))
    return replace(form, group_size=group_size)


def _stored_format(linear: Linear, parameters: Parameters, options: ExportOptions) -> PlaneFormat | None:
    """The checkpoint's format of a layer; None for a layer that stays in full precision."""
    form = _with_chosen_scales(linear.parameter, parameters, options)
    return form and _laid_out(form.for_inputs(linear.K), options)


def stored_table_form(parameter: str, parameters: Parameters, options: ExportOptions) -> PlaneFormat | None:
    """The form, in layout plain, of a vocabulary table that the graph takes as the checkpoint stores it.

    None where it stores no planes for it, where other bits are asked for, and where the operators of the graph do not
    have the form: then it is stored anew.
    """
    form = _with_chosen_scales(parameter, parameters, options)
    if form is None or options.op != "dualbinary" or options.embedding_bits not in (None, form.planes):
        return None
    return None if options.target == "cuda" and form.planes > CUDA_PLANES else form


def _with_chosen_scales(parameter: str, parameters: Parameters, options: ExportOptions) -> PlaneFormat | None:
    if parameters.source.quantization is None or not parameters.has_planes(parameter):
        return None
    form = parameters.stored_format(parameter)
    if options.scale_bits == 16 and form.scale_dtype == _CHOSEN_SCALE_DTYPES[8]:
        expected = f"8, or 32, for {parameter}, whose scales are stored as codes of 8 bits"
        raise OptionError("scale_bits", expected, 16, "leave {scale_bits} out")
    return replace(form, scale_dtype=_CHOSEN_SCALE_DTYPES.get(options.scale_bits or 16, form.scale_dtype))


def _laid_out(form: PlaneFormat, options: ExportOptions) -> PlaneFormat:
    per_tensor = form.per_tensor and not OP.layout_named(options.layout).blocks
    layout = CODES if options.stores_codes and form.in_codes else options.layout
    return replace(form, layout=layout, per_tensor=per_tensor)
