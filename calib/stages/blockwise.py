"""Blockwise calibration: initialize each layer of a decoder block, then reconstruct the block; one block in memory.

For each block, in order:

    1. teacher activations     y = block(x), full precision, for all windows; where the block is reconstructed
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

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from calib.layers import QuantLinear, full_precision, quant_linears
from calib.measure import layer_statistics
from calib.models.blocks import BlockCall, autocast, check_calls, record_calls
from calib.scale_parameters import scale_type
from calib.stages.activation_cache import ActivationCache
from calib.stages.blockwise_results import BlockwiseResults, block_file
from calib.stages.context import RunContext
from calib.stages.input_statistics import groups_by_input, input_hessian
from calib.stages.layerwise import binarize
from calib.stages.reconstruct import reconstruct
from calib.weight_init import WEIGHT_INITS, InitialWeight
from dualbinary import InputError

__all__ = ["calibrate_blockwise"]

CACHE_DIRECTORY = "streams"  # the directory of the hidden states
PROGRESS_WITHOUT_TOKENS = 100  # per block, where no tokens pass
FORWARD_TOKENS = 4096  # of a batch whose gradients nobody asks for


@dataclass
class _Run:
    """The part that stays the same from block to block."""

    context: RunContext
    initial_weights: Callable[[QuantLinear], InitialWeight] | None
    target: Callable[[QuantLinear], Tensor]  # in the basis of the quantized weight
    block_tokens: int

    def tell(self, blocks: float, **figures: float) -> None:
        """Report progress: a block counts for as many tokens as pass through it."""
        total = self.block_tokens * len(self.context.source.blocks)
        self.context.progress("init+block", round(blocks * self.block_tokens), total, **figures)


def calibrate_blockwise(
    context: RunContext,
    tokens: Tensor | None,
    *,
    initial_weights: Callable[[QuantLinear], InitialWeight] | None = None,
    target: Callable[[QuantLinear], Tensor] | None = None,
) -> None:
    """Run the stages before distillation and leave one file for each block in the work directory.

    `tokens` int [windows, T] may be None where no stage looks at text. `initial_weights` gives the first planes
    of a layer where the stage init is left out. `target` gives the weight [N, K] that a layer is to approach, not
    rotated; its own where None.
    Raises InputError for too few windows, too little room for hidden states, and models whose blocks cannot be run one
    by one.
    """
    source, work = context.source, context.work
    block_tokens = PROGRESS_WITHOUT_TOKENS if tokens is None else tokens.numel()
    own = target or (lambda layer: layer.weight.float())
    run = _Run(context, initial_weights, lambda layer: layer.rotate(own(layer)), block_tokens)
    done = 0
    while done < len(source.blocks) and work.has(block_file(done)):
        done += 1
    activations = _Activations(context, tokens, done) if tokens is not None and done < len(source.blocks) else None
    for index in range(done, len(source.blocks)):
        _Block(run, index, activations).calibrate()
    shutil.rmtree(work.path / CACHE_DIRECTORY, ignore_errors=True)


class _Activations:
    """The activation cache, and the recorded calls that take it from block to block."""

    def __init__(self, context: RunContext, tokens: Tensor, block: int) -> None:
        """Open the cached activations that enter `block`, or make them; record the calls of all blocks."""
        source, config = context.source, context.config
        self.source, self.device, self.dtype = source, context.team.device, context.dtype
        settings, windows = config.block, len(tokens)
        needed = settings.batch + settings.held_out
        if "block" in config.stages and windows < needed:
            raise InputError(
                f"the stage block has {windows} windows of text, expected {needed} or more: a batch of "
                f"{settings.batch} and {settings.held_out} held out; give more text, or lower --block-batch or "
                "--block-held-out"
            )
        hidden_size = source.model.config.get_text_config().hidden_size
        shape = windows, tokens.shape[1], hidden_size
        # What the teacher makes of a block is the target of reconstruction alone.
        kinds = ("teacher", "student") if "block" in config.stages else ("student",)
        directory, key_of = context.work.path / CACHE_DIRECTORY, context.work.digest_key
        self.cache = ActivationCache(directory, shape, config.cache_gb, kinds, key_of)
        complete = self.cache.complete(block)
        held_out = settings.held_out if "block" in config.stages else 0
        self.init_windows = min(config.init.windows, windows - held_out)  # none of those that errors are measured on
        parts = [*self.batches(windows), *self.batches(self.init_windows)]
        sizes = {part.stop - part.start for part in parts} | {settings.batch, settings.held_out % settings.batch}
        self._calls = self._record(tokens, sizes, first_activations=not complete)
        for index in range(0 if complete else block):
            self._repeat_block(index, BlockwiseResults(source, context.work))

    @torch.no_grad()
    def _record(self, tokens: Tensor, sizes: set[int], *, first_activations: bool) -> dict[int, list[BlockCall]]:
        """Record the calls of all blocks by batch size and, if asked, cache the activations that enter the first."""
        source, windows = self.source, len(tokens)
        head, first = source.model.get_output_embeddings(), source.blocks[0][1]
        needed = [first, *(module for _, module in source.outside() if module is not head)]
        for module in needed:
            source.load(module)
            module.to(self.device)
        check_calls(source, tokens[:1].to(self.device))
        calls = {n: record_calls(source, tokens[:n].to(self.device))[1] for n in sizes if 0 < n <= windows}
        if first_activations:
            files = [self.cache.create(kind, 0) for kind in self.cache.kinds]
            for part in self.batches(windows):
                entering = record_calls(source, tokens[part].to(self.device))[0].float().cpu()
                for file in files:
                    file[part] = entering
            for kind in self.cache.kinds:
                self.cache.keep(kind, 0)
        for module in needed:
            source.unload(module)
        return calls

    def _repeat_block(self, index: int, results: BlockwiseResults) -> None:
        """Take cached activations through a block that is done: those it returned were lost."""
        block = self.source.blocks[index][1]
        self.source.load(block)
        for layer in quant_linears(block):
            results.restore(layer)
        block.to(self.device)
        for kind in self.cache.kinds:
            self.advance(kind, index)
        self.source.unload(block)
        self.cache.drop(index)

    def batches(self, windows: int) -> Iterator[slice]:
        """Slices of whole forward batches over the first `windows` windows."""
        size = max(1, FORWARD_TOKENS // self.cache.shape[1])
        return (slice(begin, min(begin + size, windows)) for begin in range(0, windows, size))

    def run(self, block: int, hidden: Tensor) -> Tensor:
        """Block `block` on hidden states [batch, T, H] of any device, as float32 on the device."""
        call = self._calls[len(hidden)][block]
        with autocast(self.device, self.dtype):
            return call(self.source.blocks[block][1], hidden.to(self.device)).float()

    @torch.no_grad()
    def advance(self, kind: str, index: int) -> Tensor:
        """Take the activations of `kind` through block `index`, for the teacher in full precision; return what left."""
        entering, leaving = self.cache.open(kind, index), self.cache.create(kind, index + 1)
        with full_precision(self.source.blocks[index][1]) if kind == "teacher" else nullcontext():
            for part in self.batches(len(entering)):
                leaving[part] = self.run(index, entering[part]).cpu()
        self.cache.keep(kind, index + 1)
        return leaving


class _Block:
    """A block at its stages: its layers, their planes, scales and latents so far, and the report about them."""

    def __init__(self, run: _Run, index: int, activations: _Activations | None) -> None:
        self.run, self.context, self.config = run, run.context, run.context.config
        self.index, self.activations = index, activations
        name, self.module = self.context.source.blocks[index]
        self.layers = quant_linears(self.module)
        self.states: dict[str, InitialWeight] = {}
        self.hessians: dict[str, Tensor | None] = {}
        self.report: dict[str, Any] = {"name": name, "layers": {layer.name: {} for layer in self.layers}}

    def calibrate(self) -> None:
        """Take the block through the stages and store its result."""
        begin = time.perf_counter()
        self.context.source.load(self.module)
        self.module.to(self.context.team.device)
        reconstructs = "block" in self.config.stages
        targets = self.activations.advance("teacher", self.index) if self.activations and reconstructs else None
        for group, hessian in self._groups():
            for layer, state in zip(group, self._initial_weights(group, hessian), strict=True):
                self.hessians[layer.name] = hessian
                self._set(layer, state)
        if "init" in self.config.stages:
            self._measure("init")
        if "layer" in self.config.stages:
            self._binarize()
        if reconstructs:
            assert self.activations is not None and targets is not None
            self._reconstruct(self.activations, targets)
        if self.activations is not None:
            self.activations.advance("student", self.index)
        self.report["seconds"] = time.perf_counter() - begin
        self._store()
        self.context.source.unload(self.module)
        self.run.tell(self.index + 1)

    def _set(self, layer: QuantLinear, state: InitialWeight) -> None:
        self.states[layer.name] = state
        layer.set_quantized(state.planes, state.scales)

    def _groups(self) -> Iterator[tuple[list[QuantLinear], Tensor | None]]:
        """Layers that read the same value, with its hessian; the layers one by one where nothing looks at inputs."""
        flow = self.activations
        if flow is None:
            yield from (([layer], None) for layer in self.layers)
            return
        inputs = flow.cache.open("student", self.index)

        def forwards(windows: int) -> Iterator[Callable[[], Tensor]]:
            return (partial(flow.run, self.index, inputs[part]) for part in flow.batches(windows))

        for group in groups_by_input(self.layers, next(forwards(len(inputs)))):
            yield group, input_hessian(group[0], forwards(flow.init_windows))

    def _initial_weights(self, group: list[QuantLinear], hessian: Tensor | None) -> list[InitialWeight]:
        """Initial weights of layers with the same input; those of one format are one problem: rows are independent."""
        if self.run.initial_weights is not None:
            return [self.run.initial_weights(layer) for layer in group]
        initialize = WEIGHT_INITS[self.config.init.method].make(self.config.init, self.config.seed)
        found: dict[str, InitialWeight] = {}
        for form in dict.fromkeys(layer.format for layer in group):
            alike = [layer for layer in group if layer.format == form]
            weight = torch.cat([self.run.target(layer) for layer in alike])
            state = initialize(weight, hessian, form, alike[0].name)
            ends = accumulate(layer.out_features for layer in alike)
            found |= {
                layer.name: state.rows(end - layer.out_features, end) for layer, end in zip(alike, ends, strict=True)
            }
        return [found[layer.name] for layer in group]

    def _binarize(self) -> None:
        """The stage layer: every layer by itself, from its initial planes."""
        flipped: dict[str, list[float]] = {}
        for place, layer in enumerate(self.layers):
            initial = self.states[layer.name]
            found = binarize(self.run.target(layer), initial, layer.format, self.config.layer, layer.name)
            self._set(layer, found.state)
            flipped[layer.name] = found.flipped
            self.run.tell(self.index + (place + 1) / len(self.layers), error=found.after)
        self._measure("layer")
        for name, shares in flipped.items():
            self.report["layers"][name]["layer"]["flipped"] = shares

    def _reconstruct(self, flow: _Activations, targets: Tensor) -> None:
        self.module.requires_grad_(requires_grad=False)
        for layer in self.layers:
            layer.set_latent(self.states[layer.name].latent)
            for parameter in (layer.scales, layer.latent):
                assert parameter is not None
                parameter.requires_grad_()
        inputs = flow.cache.open("student", self.index)
        used = slice(max(0, len(inputs) - self.config.block.windows - self.config.block.held_out), len(inputs))
        result = reconstruct(
            partial(flow.run, self.index),
            self.layers,
            inputs[used],
            targets[used],
            self.config.block,
            seed=self.config.seed * len(self.context.source.blocks) + self.index,
            progress=lambda share, loss: self.run.tell(self.index + share, loss=loss),
        )
        self.report["error_before"], self.report["error_after"] = result.before, result.after
        self._measure("block")

    def _measure(self, stage: str) -> None:
        for layer in self.layers:
            self.report["layers"][layer.name][stage] = layer_statistics(
                layer.full_weight,
                layer.current_planes(),
                layer.stored_scales.detach(),
                layer.format.group_size,
                self.hessians[layer.name],
                layer.format.node_levels,
            )

    def _store(self) -> None:
        tensors: dict[str, Tensor] = {}
        for layer in self.layers:
            tensors[f"{layer.name}.planes"] = layer.current_planes().cpu()
            tensors[f"{layer.name}.scales"] = layer.stored_scales.detach().to(scale_type(layer.format)).cpu()
        self.context.work.write_tensors(block_file(self.index), tensors, self.report)
        if self.activations is not None:
            self.activations.cache.drop(self.index)
