"""Blockwise calibration: initialize each layer of a decoder block, then reconstruct the block; one block in memory.

For each block, in order:

    1. teacher activations     y = block(x), full precision, for all windows
    2. weight initialization   layers in the order in which the block calls them, those that read one value together.
                               The hessian of their inputs is that of the student, after the layers already done
    3. layer-wise              QBB's bases nearer to each weight, whatever the inputs are
    4. reconstruction          latents and scales, from student inputs x' to teacher outputs y
    5. student activations     y' = block(x'), quantized
    6. results                 planes and scales of the block are stored, and the activation cache moves on

Only the initialization of FDB and reconstruction look at activations; where neither runs none are cached.

A run that is killed resumes at its current block, with the same result: what a block needs is on disk before its
predecessor counts as done, and its random order depends on the seed and its number alone.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from calib.config import CalibConfig
from calib.layers import QuantLinear, full_precision, quant_linears
from calib.measure import layer_statistics
from calib.models.blocks import BlockCall, autocast, check_calls, record_calls
from calib.models.source import SourceModel
from calib.stages.activation_cache import ActivationCache
from calib.stages.blockwise_results import BlockwiseResults, block_file
from calib.stages.input_statistics import groups_by_input, input_hessian
from calib.stages.layerwise import binarize
from calib.stages.reconstruct import Reconstruction, reconstruct
from calib.state import WorkDirectory
from calib.weight_init import WEIGHT_INITS, InitialWeight
from dualbinary import InputError

__all__ = ["calibrate_blockwise"]

CACHE_DIRECTORY = "streams"  # the directory of the hidden states
PROGRESS_WITHOUT_TOKENS = 100  # per block, where no tokens pass
FORWARD_TOKENS = 4096  # of a batch whose gradients nobody asks for


@dataclass
class _Work:
    """Everything that stays the same from block to block."""

    source: SourceModel
    config: CalibConfig
    initial_weights: Callable[[QuantLinear], InitialWeight] | None
    target: Callable[[QuantLinear], Tensor]
    work: WorkDirectory
    device: str
    dtype: torch.dtype
    progress: Callable[..., None]
    cache: ActivationCache | None = None
    calls: dict[int, list[BlockCall]] | None = None  # by batch size

    def run(self, block: int, hidden: Tensor) -> Tensor:
        """Block `block` on hidden states [batch, T, H] of any device, as float32 on the device."""
        assert self.calls is not None
        call = self.calls[len(hidden)][block]
        with autocast(self.device, self.dtype):
            return call(self.source.blocks[block][1], hidden.to(self.device)).float()

    def batches(self, windows: int) -> Iterator[slice]:
        """Slices of whole forward batches over the first `windows` windows."""
        assert self.cache is not None
        size = max(1, FORWARD_TOKENS // self.cache.shape[1])
        return (slice(begin, min(begin + size, windows)) for begin in range(0, windows, size))


def calibrate_blockwise(
    source: SourceModel,
    config: CalibConfig,
    tokens: Tensor | None,
    work: WorkDirectory,
    *,
    initial_weights: Callable[[QuantLinear], InitialWeight] | None,
    target: Callable[[QuantLinear], Tensor] | None = None,
    device: str,
    dtype: torch.dtype,
    progress: Callable[..., None],
) -> None:
    """Run the stages before distillation of `config` and leave one file for each block in `work`.

    `tokens` int [windows, T] may be None where no stage looks at text. `initial_weights` gives the first planes of a
    layer where the stage init is left out. `target` gives the weight [N, K] that a layer is to approach, none: its own.
    `progress(done, total, **figures)` is told tokens. Raises InputError for too few windows, too little room for hidden
    states, and models whose blocks cannot be run one by one.
    """
    job = _Work(
        source, config, initial_weights, target or (lambda layer: layer.weight.float()), work, device, dtype, progress
    )
    done = 0
    while done < len(source.blocks) and work.has(block_file(done)):
        done += 1
    if tokens is not None and done < len(source.blocks):
        _prepare_cache(job, tokens, done)
    for index in range(done, len(source.blocks)):
        _calibrate_block(job, index)
    shutil.rmtree(work.path / CACHE_DIRECTORY, ignore_errors=True)


def _prepare_cache(job: _Work, tokens: Tensor, block: int) -> None:
    """Open the cached activations that enter `block`, or make them; record the calls of all blocks."""
    settings, source = job.config.block, job.source
    windows, length = tokens.shape
    min_windows = settings.batch + settings.held_out
    if "block" in job.config.stages and windows < min_windows:
        raise InputError(
            f"the stage block has {windows} windows of text, expected {min_windows} or more: a batch of "
            f"{settings.batch} and {settings.held_out} held out; give more text, or lower --block-batch or "
            "--block-held-out"
        )
    hidden_size = source.model.config.get_text_config().hidden_size
    job.cache = ActivationCache(job.work.path / CACHE_DIRECTORY, (windows, length, hidden_size), job.config.cache_gb)
    complete = job.cache.complete(block)
    _record(job, tokens, first_activations=not complete)
    for index in range(0 if complete else block):
        _repeat_block(job, index)


@torch.no_grad()
def _record(job: _Work, tokens: Tensor, *, first_activations: bool) -> None:
    """Record the calls of all blocks and, if asked, cache the activations that enter the first."""
    source = job.source
    assert job.cache is not None
    head, first = source.model.get_output_embeddings(), source.blocks[0][1]
    needed = [first, *(module for _, module in source.outside() if module is not head)]
    for module in needed:
        source.load(module)
        module.to(job.device)
    check_calls(source, tokens[:1].to(job.device))
    windows = len(tokens)
    training, held_out = job.config.block.batch, job.config.block.held_out
    sizes = {part.stop - part.start for part in job.batches(windows)} | {training, held_out % training}
    sizes |= {part.stop - part.start for part in job.batches(job.config.init.windows)}
    job.calls = {size: record_calls(source, tokens[:size].to(job.device))[1] for size in sizes if 0 < size <= windows}
    if first_activations:
        teacher, student = (job.cache.create(kind, 0) for kind in ("teacher", "student"))
        for part in job.batches(windows):
            teacher[part] = student[part] = record_calls(source, tokens[part].to(job.device))[0].float().cpu()
        for kind in ("teacher", "student"):
            job.cache.keep(kind, 0)
    for module in needed:
        source.unload(module)


def _repeat_block(job: _Work, index: int) -> None:
    """Take cached activations through a block that is done: those it returned were lost."""
    assert job.cache is not None
    block, results = job.source.blocks[index][1], BlockwiseResults(job.source, job.work)
    job.source.load(block)
    for layer in quant_linears(block):
        results.restore(layer)
    block.to(job.device)
    _advance_teacher(job, index)
    _advance_student(job, index, job.cache.open("student", index))
    job.source.unload(block)
    job.cache.drop(index)


def _calibrate_block(job: _Work, index: int) -> None:
    name, block = job.source.blocks[index]
    begin = time.perf_counter()
    job.source.load(block)
    block.to(job.device)
    layers = quant_linears(block)
    inputs = targets = None
    if job.cache is not None:
        inputs, targets = job.cache.open("student", index), _advance_teacher(job, index)
    states = _initialize_layers(job, index, layers, inputs)
    report: dict[str, Any] = {"name": name, "layers": {layer.name: {} for layer in layers}}
    if "init" in job.config.stages:
        _measure(report, "init", layers, states)
    if "layer" in job.config.stages:
        _binarize_layers(job, index, layers, states, report)
    if "block" in job.config.stages:
        assert inputs is not None and targets is not None
        result = _reconstruct(job, index, layers, states, inputs, targets)
        report["error_before"], report["error_after"] = result.before, result.after
        _measure(report, "block", layers, states)
    if inputs is not None:
        _advance_student(job, index, inputs)
    report["seconds"] = time.perf_counter() - begin
    _store(job, index, layers, report)
    job.source.unload(block)
    _tell(job, index + 1)


def _tell(job: _Work, blocks: float, **figures: float) -> None:
    """Report progress: a block counts for as many tokens as pass through it."""
    tokens = math.prod(job.cache.shape[:2]) if job.cache is not None else PROGRESS_WITHOUT_TOKENS
    job.progress(round(blocks * tokens), tokens * len(job.source.blocks), **figures)


@dataclass
class _LayerState:
    state: InitialWeight
    hessian: Tensor | None


def _initialize_layers(
    job: _Work, index: int, layers: list[QuantLinear], inputs: Tensor | None
) -> dict[str, _LayerState]:
    """Give every layer planes and scales; afterwards all are quantized."""
    states: dict[str, _LayerState] = {}
    for group in _groups(job, index, layers, inputs):
        hessian = None
        if inputs is not None:
            hessian = input_hessian(group[0], _forwards(job, index, inputs[: job.config.init.windows]))
        for layer, state in zip(group, _initialize_group(job, group, hessian), strict=True):
            layer.set_quantized(state.planes, state.scales)
            states[layer.name] = _LayerState(state, hessian)
    return states


def _forwards(job: _Work, index: int, inputs: Tensor) -> Iterator[Callable[[], Tensor]]:
    """Forward passes of the student's block over all `inputs`, to be called."""
    return (partial(job.run, index, inputs[part]) for part in job.batches(len(inputs)))


def _groups(job: _Work, index: int, layers: list[QuantLinear], inputs: Tensor | None) -> list[list[QuantLinear]]:
    if inputs is None:
        return [[layer] for layer in layers]
    return groups_by_input(layers, next(_forwards(job, index, inputs)))


def _initialize_group(job: _Work, group: list[QuantLinear], hessian: Tensor | None) -> list[InitialWeight]:
    """The initial weights of layers that read the same value: one problem, since their rows are independent."""
    if job.initial_weights is not None:
        return [job.initial_weights(layer) for layer in group]
    settings = job.config.init
    initialize = WEIGHT_INITS[settings.method].make(settings, job.config.seed)
    weight = torch.cat([job.target(layer) for layer in group])
    state = initialize(weight, hessian, group[0].format, group[0].name)
    ends = accumulate(layer.out_features for layer in group)
    return [state.rows(end - layer.out_features, end) for layer, end in zip(group, ends, strict=True)]


def _binarize_layers(
    job: _Work, index: int, layers: list[QuantLinear], states: dict[str, _LayerState], report: dict[str, Any]
) -> None:
    """The stage layer: every layer by itself, from its initial planes."""
    flipped: dict[str, list[float]] = {}
    for place, layer in enumerate(layers):
        known = states[layer.name]
        found = binarize(job.target(layer), known.state, layer.format, job.config.layer, layer.name)
        states[layer.name] = _LayerState(found.state, known.hessian)
        layer.set_quantized(found.state.planes, found.state.scales)
        flipped[layer.name] = found.flipped
        _tell(job, index + (place + 1) / len(layers), error=found.after)
    _measure(report, "layer", layers, states)
    for name, shares in flipped.items():
        report["layers"][name]["layer"]["flipped"] = shares


def _reconstruct(
    job: _Work, index: int, layers: list[QuantLinear], states: dict[str, _LayerState], inputs: Tensor, targets: Tensor
) -> Reconstruction:
    settings = job.config.block
    for layer in layers:
        layer.set_latent(states[layer.name].state.latent)
    used = slice(max(0, len(inputs) - settings.windows - settings.held_out), len(inputs))
    block = job.source.blocks[index][1]
    block.requires_grad_(requires_grad=False)
    for layer in layers:
        layer.scales.requires_grad_()
        assert layer.latent is not None
        layer.latent.requires_grad_()
    return reconstruct(
        lambda hidden: job.run(index, hidden),
        layers,
        inputs[used],
        targets[used],
        settings,
        seed=job.config.seed * len(job.source.blocks) + index,
        progress=lambda share, loss: _tell(job, index + share, loss=loss),
    )


@torch.no_grad()
def _advance_teacher(job: _Work, index: int) -> Tensor:
    assert job.cache is not None
    entering, leaving = job.cache.open("teacher", index), job.cache.create("teacher", index + 1)
    with full_precision(job.source.blocks[index][1]):
        for part in job.batches(len(entering)):
            leaving[part] = job.run(index, entering[part]).cpu()
    job.cache.keep("teacher", index + 1)
    return leaving


@torch.no_grad()
def _advance_student(job: _Work, index: int, entering: Tensor) -> None:
    assert job.cache is not None
    leaving = job.cache.create("student", index + 1)
    for part in job.batches(len(entering)):
        leaving[part] = job.run(index, entering[part]).cpu()
    job.cache.keep("student", index + 1)


def _measure(report: dict[str, Any], stage: str, layers: list[QuantLinear], states: dict[str, _LayerState]) -> None:
    for layer in layers:
        report["layers"][layer.name][stage] = layer_statistics(
            layer.weight.float(),
            layer.current_planes(),
            layer.stored_scales.detach(),
            layer.format.group_size,
            states[layer.name].hessian,
        )


def _store(job: _Work, index: int, layers: list[QuantLinear], report: dict[str, Any]) -> None:
    tensors: dict[str, Tensor] = {}
    for layer in layers:
        tensors[f"{layer.name}.planes"] = layer.current_planes().cpu()
        tensors[f"{layer.name}.scales"] = layer.stored_scales.detach().half().cpu()
    job.work.write_tensors(block_file(index), tensors, report)
    if job.cache is not None:
        job.cache.drop(index)
