"""Seconds of the parts of a run, for `--plan`: measured on this machine, or computed from operations.

A model is many times the same few things, so one block with random weights and a few tokens at its head show what all
take: `measure` runs the code of the stages on them, for a minute at most. What it takes from formulas is

    hessians            2 K^2 for each token, and the part of the block before the layer
    solver              N K^2 of the error that is fed into later columns
    statistics          2 N K^2 for each plane, the offset and the error

in float32. What is true of another machine, shapes and two rates say roughly: calib/plan.py computes it.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from calib.config import CalibConfig
from calib.layers import QuantLinear, full_precision, quant_linears
from calib.loss_weights import LossWeights
from calib.losses import chunk_size, feature_error, sequence_loss
from calib.measure import layer_statistics
from calib.models.blocks import BlockCall, autocast, choose_attention, record_calls
from calib.models.source import decoder_blocks
from calib.rotation import InputRotation, random_rotation
from calib.stages.input_statistics import groups_by_input
from calib.stages.layerwise import binarize
from calib.weight_init import WEIGHT_INITS
from calib.weight_init.error_feedback import inverse_factor
from dualbinary.contract.weight import PlaneFormat

__all__ = ["Parts", "measure_parts", "seconds_of"]

TRIES = 3
ENOUGH = 3.0  # seconds after which nothing is tried again
SAMPLED_ROWS, SAMPLED_INPUTS, SAMPLED_WORDS = 2048, 1024, 1 << 16  # of larger problems, whose time grows in proportion
SIZE = 0.02  # of random weights


@dataclass(frozen=True)
class Parts:
    """Seconds. A token is one that passes one block; all but the losses are of one block.

    Attributes:
        teacher, student: a pass of a token in full precision, and quantized, without gradients.
        initial: weight initialization, without passes.
        hessian: the passes and products of a token for hessians of all inputs.
        layerwise: the stage layer.
        statistics: figures about the layers, where there are hessians.
        reconstruction: a step of the stage block.
        distillation: the student's pass of a micro-batch, there and back.
        loss, loss_forward: logits and losses of a token, with a gradient and without.
    """

    teacher: float
    student: float
    initial: float
    hessian: float
    layerwise: float
    statistics: float
    reconstruction: float
    distillation: float
    loss: float
    loss_forward: float


def seconds_of(work: Callable[[], object], device: str, tries: int = TRIES) -> float:
    """The median time of a call, of fewer than `tries` where it is long."""
    times: list[float] = []
    while len(times) < tries and sum(times) < ENOUGH:
        begin = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        elif device == "mps":
            torch.mps.synchronize()
        times.append(time.perf_counter() - begin)
    return sorted(times)[len(times) // 2]


def measure_parts(
    model: PreTrainedModel,
    config: CalibConfig,
    device: str,
    dtype: torch.dtype,
    float32_flops: float,
    formats: Sequence[PlaneFormat] = (),
) -> Parts:
    """Measure the parts on the first block of `model`, whose parameters are on the meta device; it is changed.

    `formats` are those of its layers in order; none: the default for all.
    Raises InputError where the model does not run its blocks one after another.
    """
    trial = _Trial(model, config, device, dtype, float32_flops, formats)
    loss, loss_forward = trial.losses() if "e2e" in config.stages else (0.0, 0.0)
    return Parts(
        teacher=trial.teacher(),
        student=trial.student(),
        initial=trial.initial() if "init" in config.stages else 0.0,
        hessian=trial.hessian(),
        layerwise=trial.layerwise() if "layer" in config.stages else 0.0,
        statistics=trial.statistics(),
        reconstruction=trial.reconstruction() if "block" in config.stages else 0.0,
        distillation=trial.distillation() if "e2e" in config.stages else 0.0,
        loss=loss,
        loss_forward=loss_forward,
    )


@dataclass(frozen=True)
class _Opened:
    """The part of a SourceModel that blocks are run with; its weights are random."""

    model: PreTrainedModel
    blocks: list[tuple[str, nn.Module]]
    directory: str
    config: dict[str, Any]


class _Trial:
    def __init__(
        self,
        model: PreTrainedModel,
        config: CalibConfig,
        device: str,
        dtype: torch.dtype,
        float32_flops: float,
        formats: Sequence[PlaneFormat],
    ) -> None:
        self.config, self.device, self.dtype, self.float32_flops = config, device, dtype, float32_flops
        blocks = decoder_blocks(model)
        self.block = blocks[0][1]
        formats = formats or [config.format.plane_format] * len(list(linear_sizes(self.block)))
        text = model.config.get_text_config()
        self.H, self.V, self.T = text.hidden_size, text.vocab_size, config.data.length
        model.set_input_embeddings(nn.Embedding(2, self.H))
        inside = {id(parameter) for _, block in blocks[1:] for parameter in block.parameters()}
        head = model.get_output_embeddings()
        for module in model.modules():
            if module is not head:
                _fill(module, inside)
        _quantize(self.block, formats, partial(random_rotation, limit=config.format.rotate, seed=config.seed))
        for module in (self.block, *(part for part in model.modules() if next(part.children(), None) is None)):
            if not any(parameter.device.type == "meta" for parameter in module.parameters()):
                module.to(device)
        source: Any = _Opened(model, blocks, text.model_type, {"model_type": text.model_type})
        choose_attention(source, device, self.T)
        self.layers = quant_linears(self.block)
        self._calls: dict[int, BlockCall] = {}
        for windows in {config.e2e.micro_batch, config.block.batch}:
            tokens = torch.zeros(windows, self.T, dtype=torch.int64, device=device)
            self._calls[windows] = record_calls(source, tokens)[1][0]
        self.groups = groups_by_input(self.layers, partial(self._run, self._hidden(config.e2e.micro_batch)))

    def teacher(self) -> float:
        with full_precision(self.block), torch.no_grad():
            return self._pass()

    def student(self) -> float:
        with torch.no_grad():
            return self._pass()

    def _pass(self) -> float:
        hidden = self._hidden(self.config.e2e.micro_batch)
        return self._seconds(lambda: self._run(hidden)) / (len(hidden) * self.T)

    def _hidden(self, windows: int) -> Tensor:
        return torch.randn(windows, self.T, self.H, device=self.device)

    def _run(self, hidden: Tensor) -> Tensor:
        with autocast(self.device, self.dtype):
            return self._calls[len(hidden)](self.block, hidden).float()

    def _seconds(self, work: Callable[[], object]) -> float:
        return seconds_of(work, self.device)

    def _sizes(self) -> list[tuple[int, int]]:
        """[N, K] of layers that read the same."""
        return [(sum(layer.out_features for layer in group), group[0].in_features) for group in self.groups]

    def _problems(self) -> Iterator[tuple[PlaneFormat, int, int]]:
        """Format, N and K of layers that are solved together."""
        for group in self.groups:
            for form in dict.fromkeys(layer.format for layer in group):
                yield form, sum(layer.out_features for layer in group if layer.format == form), group[0].in_features

    def _largest(self) -> QuantLinear:
        return max(self.layers, key=lambda layer: layer.weight.numel())

    @torch.no_grad()
    def initial(self) -> float:
        """A part of each weight, times the number of such parts; errors that move on are one product."""
        return sum(self._solving(*problem) for problem in self._problems())

    def _solving(self, plane_format: PlaneFormat, N: int, K: int) -> float:
        row = WEIGHT_INITS[self.config.init.method]
        initialize = row.make(self.config.init, self.config.seed)
        rows, size = min(N, SAMPLED_ROWS), min(K, SAMPLED_INPUTS)
        feeds_back = self.config.init.method == "error-feedback"  # goes from group to group, others take all at once
        width = min(plane_format.group_size, K) if feeds_back else size
        weight = SIZE * torch.randn(rows, width, device=self.device)
        metric = _metric(width, self.device) if row.needs_inputs else None
        seconds = self._seconds(lambda: initialize(weight, metric, plane_format, "weight")) * (N / rows) * (K / width)
        if feeds_back:
            whole = _metric(size, self.device)
            seconds += self._seconds(lambda: inverse_factor(whole, self.config.init.damping)) * (K / size) ** 3
            seconds += N * K * K / self.float32_flops
        return seconds

    @torch.no_grad()
    def hessian(self) -> float:
        if not self.config.blockwise_reads_text or "init" not in self.config.stages:
            return 0.0
        weights = [N * K for N, K in self._sizes()]
        before = sum(sum(weights[:index]) for index in range(len(weights))) / sum(weights)
        return before * self.student() + sum(2 * K * K for _, K in self._sizes()) / self.float32_flops

    @torch.no_grad()
    def layerwise(self) -> float:
        """Of some rows of the largest layer; the time is that of its weights."""
        layer = self._largest()
        weight = layer.full_weight[:SAMPLED_INPUTS]
        initialize = WEIGHT_INITS[self.config.init.method].make(self.config.init, self.config.seed)
        metric = _metric(layer.in_features, self.device)
        state = initialize(weight, metric, layer.format, layer.name)
        work = partial(binarize, weight, state, layer.format, self.config.layer, layer.name)
        return self._seconds(work) * sum(N * K for N, K in self._sizes()) / weight.numel()

    @torch.no_grad()
    def statistics(self) -> float:
        """Figures of one layer without its hessian, and the products with hessians."""
        layer = self._largest()
        size, wanted = layer.format.group_size, layer.weight.float()
        given = layer.current_planes(), layer.stored_scales, size, None, layer.format.node_levels
        weights = sum(N * K for N, K in self._sizes())
        alone = self._seconds(lambda: layer_statistics(wanted, *given)) * weights / layer.weight.numel()
        products = sum(2 * N * K * K * (form.planes + 2) for form, N, K in self._problems()) / self.float32_flops
        return alone + (products if self.config.blockwise_reads_text else 0.0)

    def reconstruction(self) -> float:
        hidden, groups = self._hidden(self.config.block.batch), []
        target = torch.randn_like(hidden)
        for layer in self.layers:
            planes, scales = layer.current_planes(), layer.stored_scales.detach()
            layer.set_latent(layer.weight.float())
            layer.scales.requires_grad_()
            groups.append((layer, planes, scales))
        trained = [value for layer in self.layers for value in (layer.latent, layer.scales) if value is not None]
        optimizer = torch.optim.Adam(trained, lr=0.0, foreach=True)

        def step() -> None:
            feature_error(self._run(hidden), target).mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        seconds = self._seconds(step)
        for layer, planes, scales in groups:
            layer.set_quantized(planes, scales)
        return seconds

    def distillation(self) -> float:
        hidden = self._hidden(self.config.e2e.micro_batch).requires_grad_()
        incoming = torch.randn_like(hidden)
        for layer in self.layers:
            layer.scales.requires_grad_()
            if self.config.e2e.latent_rate:
                layer.set_latent(layer.weight.float())
        return self._seconds(lambda: self._run(hidden).backward(incoming))

    def losses(self) -> tuple[float, float]:
        """Of the tokens of one piece, with a smaller vocabulary where it is large: the time grows with it."""
        words, weights = min(self.V, SAMPLED_WORDS), LossWeights(**_loss_weights(self.config))
        chunk = chunk_size(self.V)
        tokens = min(self.T - 1, 2 * chunk)
        matrix = (SIZE * torch.randn(words, self.H, device=self.device)).to(self.dtype)
        student, teacher = torch.randn(2, tokens, self.H, device=self.device)
        targets = torch.zeros(tokens, dtype=torch.int64, device=self.device)

        def head(hidden: Tensor) -> Tensor:
            return functional.linear(hidden.to(self.dtype), matrix)

        def work(gradient: bool) -> None:
            known = teacher if weights.needs_teacher else None
            sequence_loss(student, known, targets, head, weights, chunk, gradient=gradient)

        factor = self.V / words / tokens
        return factor * self._seconds(lambda: work(True)), factor * self._seconds(lambda: work(False))


def _loss_weights(config: CalibConfig) -> dict[str, Any]:
    return {name: getattr(config.e2e, name) for name in LossWeights.model_fields}


def _metric(size: int, device: str) -> Tensor:
    """A hessian of `size` inputs."""
    rows = torch.randn(2 * size, size, device=device)
    return rows.T @ rows / len(rows)


def _fill(module: nn.Module, without: set[int]) -> None:
    """Give parameters on the meta device values, apart from those of the ids `without`."""
    for key, parameter in list(module.named_parameters(recurse=False)):
        if parameter.device.type == "meta" and id(parameter) not in without:
            value = torch.ones(parameter.shape) if parameter.dim() < 2 else SIZE * torch.randn(parameter.shape)
            setattr(module, key, nn.Parameter(value, requires_grad=False))


def linear_sizes(block: nn.Module) -> Iterator[tuple[str, tuple[int, int]]]:
    """Path and [N, K] of what SourceModel would quantize."""
    for path, module in block.named_modules():
        if isinstance(module, Conv1D):
            yield path, (module.weight.shape[1], module.weight.shape[0])
        elif isinstance(module, nn.Linear):
            yield path, (module.weight.shape[0], module.weight.shape[1])


def _quantize(
    block: nn.Module, formats: Iterable[PlaneFormat], rotation_of: Callable[[int], InputRotation | None]
) -> None:
    """Put QuantLinear with random planes in the place of linear layers, as SourceModel does."""
    linears = [path for path, _ in linear_sizes(block)]
    for path, form in zip(linears, formats, strict=True):
        module: Any = block.get_submodule(path)
        weight = module.weight.T.contiguous() if isinstance(module, Conv1D) else module.weight
        layer = QuantLinear(path, weight, module.bias, form)
        layer.rotation = rotation_of(layer.in_features)
        rows, N, groups = layer.format.scale_rows, len(weight), layer.format.groups(layer.in_features)
        planes = torch.randint(0, 256, layer.format.shapes(*weight.shape)[0])
        layer.set_quantized(planes.to(torch.uint8), _scales(rows, N, groups, layer.format.symmetric))
        block.set_submodule(path, layer)


def _scales(rows: int, N: int, groups: int, symmetric: bool) -> Tensor:
    scales = SIZE * torch.rand(rows, N, groups)
    if symmetric:
        scales[-1] = -scales[:-1].sum(0) / 2
    return scales
