"""The cost of a run in time, memory and disk: `--plan`, before anything is read or made.

Time is how often each part of a run is done, times the seconds that it takes: those that calib/plan_parts.py measures
here, with random weights of the shapes in config.json, or for a machine that is not here computed from its rates. For
a block with n weights in its linear layers, N and K each, and t tokens; a multiply-add counts as 2, and a backward pass
as two forward passes:

    teacher and student pass        2 n t each         + attention, 4 T H t each
    hessians                        2 n t + sum of 2 K^2 t         for the windows of init; layers see half of a block
    init (error feedback)           2 N K^2 (refits + 1) (polishes + 1) of each layer
    layer-wise (QBB)                SORT_BYTES per weight and LEVEL_BYTES per weight and level in closed form;
                                    by gradients GRADIENT_BYTES per weight, basis and step
    reconstruction                  6 n t              for each epoch
    text that the model writes      2 n t, all weights for each token of a batch, and its past
    distillation                    6 n t of the student, 8 n t with recomputed activations, 2 n t of the teacher
    logits and losses               6 H V t with a gradient, 4 H V t without; and LOSS_BYTES V t

The quantizer reads and writes memory rather than computes: STEP_BYTES for each weight and optimizer step, SWAP_BYTES
where a swapped block makes its weights for the teacher as well. So does the loss of block outputs: FEATURE_BYTES for
each number that a block returns. Computed time leaves out what is neither: a lower bound, good for comparing models.

Memory is parameters, gradients, Adam's two moments, what the backward pass keeps and the hessian. What PyTorch
and the libraries take themselves, half a gigabyte, is in it.
"""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from calib.budget.cost import measuring_seconds
from calib.checks import check_lengths, check_windows, checked_run
from calib.config import CalibConfig
from calib.data.collect import generated_count
from calib.data.generate import cache_room, sequences_at_once
from calib.data.window_counts import windows_written
from calib.machine import Machine
from calib.models.blocks import compute_dtype
from calib.models.source import check_length, empty_model
from calib.parallel import Team
from calib.plan_parts import Parts, measure_parts
from calib.plan_shapes import Shapes
from dualbinary import InputError
from dualbinary.fitting.table_forms import table_format

__all__ = ["Plan", "make_plan", "plan"]

LIBRARIES = 0.5e9  # bytes
STEP_BYTES = 40  # read and written for each weight by quantize or dequantize and their gradients
TABLE_BYTES = 400  # read and written for each weight of a table by a sweep or a polish of the solver
SWAP_BYTES = 12  # read and written for each weight to dequantize it
LOSS_BYTES = 80  # read and written for each logit of teacher and student together
FEATURE_BYTES = 56  # read and written for each number that a block returns: norm, difference, pull, into the gradient
SORT_BYTES, LEVEL_BYTES = 4000, 500  # of the closed form: the bytes that take as long; measured for 2 to 4 bases
GRADIENT_BYTES = 60  # read and written for each weight and basis by a gradient step of the layer-wise stage
ADAM_BYTES = 16  # a float32 parameter, its gradient and two moments
KEPT_BYTES = 8  # of reconstruction, for each weight: quantized form, its gradient, ranks
ACTIVATIONS = 34  # numbers kept for each token, in units of the hidden size, by one block
CHANCE_BYTES, PAST_BYTES = 40, 4  # of a token that is written, for each word, and for each number of half its past
FORWARD_TOKENS = 4096  # of a batch whose gradients nobody asks for


@dataclass(frozen=True)
class Stage:
    """Cost of one stage: seconds, and bytes of memory and disk at its peak."""

    seconds: float
    memory: float
    disk: float
    tokens: int


@dataclass(frozen=True)
class Plan:
    """Cost of a run, stage by stage, on one device."""

    name: str
    machine: Machine
    shapes: Shapes
    bits_per_weight: float | None  # None with a budget of bytes, which layers and tables share
    stages: dict[str, Stage] = field(default_factory=dict)

    def table(self) -> str:
        """For people."""
        bits = "" if self.bits_per_weight is None else f" at {self.bits_per_weight:.2f} bits"
        head = (
            f"{self.name}: {self.shapes.weights / 1e9:.2f} of {self.shapes.parameters / 1e9:.2f} billion weights{bits}"
            f"; {self.machine.name}, {self.machine.flops / 1e12:.2f} TFLOP/s, {self.machine.bandwidth / 1e9:.0f} GB/s"
        )
        lines = [head, f"{'stage':<12}{'tokens':>12}{'time':>12}{'memory GB':>12}{'disk GB':>12}"]
        for name, stage in self.stages.items():
            numbers = f"{stage.tokens:>12,}{_duration(stage.seconds):>12}"
            lines.append(f"{name:<12}{numbers}{stage.memory / 1e9:>12.1f}{stage.disk / 1e9:>12.1f}")
        return "\n".join([*lines, f"{'together':<24}{_duration(sum(s.seconds for s in self.stages.values())):>12}"])

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {**asdict(self), "weights": self.shapes.weights}


def make_plan(model_dir: Path, config: CalibConfig, device: str | None = None) -> Plan:
    """The plan of `config` for the model whose config.json is in `model_dir`, on this machine.

    Raises InputError for what the run would refuse, as far as it can be known without weights where there are none.
    """
    team = Team.launched(device)
    device = team.device
    planned = config.model_copy(update={"format": config.format.as_planned})
    if any(model_dir.glob("*.safetensors")):
        checked_run(model_dir, config, team)
    check_windows(config)
    model = empty_model(model_dir)
    check_lengths(model, config)
    check_length(model, config.data.length)  # a block is measured on windows, also where the run looks at none
    shapes = Shapes.of(model).named_as_stored(planned.format.layer_formats, model.base_model_prefix)
    dtype = compute_dtype(config.dtype, device)
    machine = Machine.measure(device, dtype)
    products = machine if dtype == torch.float32 else Machine.measure(device, torch.float32)
    try:
        formats = [form for form, _, _ in shapes.first_block.layers(planned.format.layer_formats)]
        parts = measure_parts(model, planned, device, dtype, products.flops, formats)
    except InputError:  # its blocks cannot be run one by one
        parts = None
    return plan(model_dir.resolve().name, shapes, config, machine, parts)


def plan(
    name: str,
    shapes: Shapes,
    config: CalibConfig,
    machine: Machine,
    parts: Parts | None = None,
) -> Plan:
    """The plan of `config` for a model of these shapes, whose first block takes `parts`; computed where None.

    A budget is measured first, unless it was; one format of about as many bits stands for those that it chooses.
    """
    asked, config = config.format, config.model_copy(update={"format": config.format.as_planned})
    bits = asked.bits if asked.has_budget else 8 * _planes(shapes, config) / shapes.weights
    result = Plan(name, machine, shapes, bits)
    parts = parts or _computed(shapes, config, machine)
    if written := windows_written(config):
        result.stages["generate"] = _generate(shapes, config, machine, parts, written)
    if asked.has_budget and asked.measured is None:
        seconds, tokens = measuring_seconds(
            shapes.blocks,
            config.data.length,
            token=shapes.times_first * parts.teacher,
            loss=parts.loss_forward,
            initial=shapes.times_first * parts.initial,
            refits=config.init.refits,
        )
        result.stages["budget"] = Stage(seconds, LIBRARIES + _student_bytes(shapes, config), 0, tokens)
    if {"init", "layer", "block"} & set(config.stages):
        result.stages["init+block"] = _blockwise(shapes, config, parts)
    if config.format.embedding_bits is not None:
        result.stages["tables"] = _tables(shapes, config, machine, parts)
    if config.data.keep and config.data.keep_by == "discrepancy" and not config.data.scores:
        result.stages["filter"] = _filter(shapes, config, parts)
    if "e2e" in config.stages:
        result.stages["e2e"] = _distill(shapes, config, machine, parts)
    return result


def _computed(shapes: Shapes, config: CalibConfig, machine: Machine) -> Parts:
    """The parts on a machine of which two rates are known."""
    T, H, V, block = config.data.length, shapes.hidden, shapes.vocabulary, shapes.blocks[0]
    n = sum(N * K for N, K in block)
    init, squares = config.init, sum(K * K for _, K in block)
    solving = sum(2 * N * K * K for N, K in block) * (init.refits + 1) * (init.polishes + 1)
    trained, micro = config.block.batch * T, config.e2e.micro_batch * T
    latents = STEP_BYTES if config.e2e.latent_rate else 0

    def seconds(flops: float, data: float = 0.0) -> float:
        return flops / machine.flops + data / machine.bandwidth

    return Parts(
        teacher=seconds(2 * n + 4 * T * H),
        student=seconds(2 * n + 4 * T * H, SWAP_BYTES * n / micro),
        initial=seconds(solving if init.method == "error-feedback" else 0),
        hessian=seconds(2 * n + 2 * squares),
        layerwise=seconds(0, n * _layerwise_bytes(config)),
        statistics=seconds(
            sum(
                2 * N * K * K * (form.planes + 2)
                for form, N, K in shapes.first_block.layers(config.format.layer_formats)
            )
        ),
        reconstruction=seconds((6 * n + 12 * T * H) * trained, STEP_BYTES * n),
        distillation=seconds((6 * n + 12 * T * H) * micro, (STEP_BYTES + latents) * n),
        loss=seconds(6 * H * V, LOSS_BYTES * V),
        loss_forward=seconds(4 * H * V, LOSS_BYTES * V),
    )


def _generate(shapes: Shapes, config: CalibConfig, machine: Machine, parts: Parts, windows: int) -> Stage:
    """Token by token in batches: all weights are read for each, and a token is a pass, its chances, and its past."""
    T, H, V = config.data.length, shapes.hidden, shapes.vocabulary
    batches = -(-windows // sequences_at_once(shapes.parameters, len(shapes.blocks), shapes.keys or H, T))
    passes = shapes.times_first * parts.teacher + (2 * H * V) / machine.flops
    moved = CHANCE_BYTES * V + PAST_BYTES * H * T * len(shapes.blocks)
    seconds = T * (windows * (passes + moved / machine.bandwidth) + batches * 4 * shapes.parameters / machine.bandwidth)
    memory = LIBRARIES + 4 * shapes.parameters + cache_room(shapes.parameters)
    return Stage(seconds, memory, 4 * windows * T, windows * T)


def _blockwise(shapes: Shapes, config: CalibConfig, parts: Parts) -> Stage:
    T, H = config.data.length, shapes.hidden
    reads = config.blockwise_reads_text
    init = config.init.windows * T if reads and "init" in config.stages else 0
    trains = "block" in config.stages
    wanted = {"init": config.init.windows, "block": config.block.windows}
    windows = max((wanted.get(stage, 0) for stage in config.stages), default=0)
    windows = windows + (config.block.held_out if trains else 0) if reads else 0
    steps = config.block.windows // config.block.batch * config.block.epochs if trains else 0
    passes = windows * T * (parts.teacher + parts.student)
    if reads:
        passes += min(windows * T, FORWARD_TOKENS) * parts.student  # to see which layers read the same
    passes += 2 * config.block.held_out * T * parts.student if trains else 0
    measured = len({"init", "layer", "block"} & set(config.stages))
    work = parts.initial + parts.hessian * init + parts.layerwise + parts.statistics * measured
    seconds = shapes.times_first * (passes + work + parts.reconstruction * steps)
    n = max(sum(N * K for N, K in block) for block in shapes.blocks)
    widest = max(K for block in shapes.blocks for _, K in block)
    training = n * (4 + ADAM_BYTES + KEPT_BYTES) if trains else 0
    solving = n * 4 + 6 * 4 * widest**2 + 3 * 4 * max(N * K for block in shapes.blocks for N, K in block)
    outside = 4 * (shapes.parameters - shapes.weights)
    memory = LIBRARIES + max(training + 4 * config.block.batch * T * H * ACTIVATIONS, solving, outside + 4 * n)
    disk = 4 * 4 * windows * T * H + _planes(shapes, config)
    return Stage(seconds, memory, disk, windows * T)


def _tables(shapes: Shapes, config: CalibConfig, machine: Machine, parts: Parts) -> Stage:
    """Passes of the student for the metric, and the solver, whose time for a weight is that of the layers."""
    T, H, V = config.data.length, shapes.hidden, shapes.vocabulary
    settings, tokens = config.init, config.init.windows * config.data.length
    numbers = V * H * (settings.refits + 1) * (settings.polishes + 1)
    seconds = tokens * (shapes.times_first * parts.student + 2 * H * H / machine.flops)
    seconds += numbers * TABLE_BYTES / machine.bandwidth + 2 * V * H * H / machine.flops
    memory = LIBRARIES + _student_bytes(shapes, config) + T * H * ACTIVATIONS * 4 + 6 * 4 * H * H
    return Stage(seconds, memory, _table_bytes(shapes, config), tokens)


def _student_bytes(shapes: Shapes, config: CalibConfig) -> float:
    """Memory of teacher and student, loaded: layers, and what is outside of them, the head once more in 16 bits."""
    outside = 6 * (shapes.parameters - shapes.weights)
    return 2 * shapes.weights + _bits(shapes, config) / 8 + 4 * _scales(shapes, config) + outside


def _table_bytes(shapes: Shapes, config: CalibConfig) -> float:
    """Bytes of one vocabulary table in planes, with float32 scales; 0 where none is asked for."""
    bits = config.format.embedding_bits
    if bits is None:
        return 0
    form = replace(table_format(bits, shapes.hidden), scale_dtype=np.dtype(np.float32))
    return shapes.vocabulary * form.row_bits(shapes.hidden) / 8


def _filter(shapes: Shapes, config: CalibConfig, parts: Parts) -> Stage:
    T, H = config.data.length, shapes.hidden
    windows = max(0, generated_count(config.data) - config.e2e.held_out)
    memory = LIBRARIES + _student_bytes(shapes, config) + T * H * ACTIVATIONS * 4
    seconds = windows * T * (shapes.times_first * (parts.teacher + parts.student) + parts.loss_forward)
    return Stage(seconds, memory, 8 * windows + _planes(shapes, config), windows * T)


def _layerwise_bytes(config: CalibConfig) -> float:
    """Bytes per weight that the stage layer moves."""
    settings, planes = config.layer, config.format.planes
    if "layer" not in config.stages:
        return 0
    if settings.solver == "closed-form":
        return SORT_BYTES + LEVEL_BYTES * 2**planes
    return GRADIENT_BYTES * settings.steps * planes * planes


def _distill(shapes: Shapes, config: CalibConfig, machine: Machine, parts: Parts) -> Stage:
    T, H, n, settings = config.data.length, shapes.hidden, shapes.weights, config.e2e
    tokens = settings.steps * settings.batch * T
    measured = (-(-settings.steps // settings.evaluate_every) + 1) * settings.held_out * T
    forwards = settings.steps * settings.batch // settings.micro_batch
    again = tokens * parts.student if settings.gradient_checkpointing else 0
    teacher = (tokens + measured) * parts.teacher if settings.needs_teacher else 0
    passes = teacher + again + measured * parts.student + forwards * parts.distillation
    seconds = shapes.times_first * passes + tokens * parts.loss + measured * parts.loss_forward
    outputs = settings.micro_batch * T * H * len(shapes.blocks) if settings.features else 0
    swapped = settings.swap / 2  # of the blocks, over the steps
    seconds += (n * SWAP_BYTES * swapped + outputs * FEATURE_BYTES) * forwards / machine.bandwidth
    scales = _scales(shapes, config)
    weights = 2 * n + _bits(shapes, config) / 8 + scales * (ADAM_BYTES + 4)
    weights += n * (ADAM_BYTES + 1) if settings.latent_rate else 0
    outside = 6 * (shapes.parameters - n)  # float32, and the head once more in 16 bits
    one_block = settings.micro_batch * T * H * ACTIVATIONS * 4
    kept = one_block if settings.gradient_checkpointing else one_block * len(shapes.blocks) + 2 * n
    if settings.gradient_checkpointing:
        kept += settings.micro_batch * T * H * 4 * len(shapes.blocks) + 2 * n / len(shapes.blocks)
    kept += 2 * 4 * outputs  # the teacher's, and the pulls
    if config.format.embedding_bits is not None:
        table = H * shapes.vocabulary
        step = 2 * table * settings.micro_batch * T / machine.flops + STEP_BYTES * table / machine.bandwidth
        seconds += forwards * step
        kept += 6 * table + 2 * _table_bytes(shapes, config)  # the student's head in 16 bits, and its gradient
    disk = 4 * scales * 4 + _planes(shapes, config)
    return Stage(seconds, LIBRARIES + weights + outside + kept, disk, tokens)


def _scales(shapes: Shapes, config: CalibConfig) -> int:
    """The number of scales."""
    layers = shapes.layers(config.format.layer_formats)
    return sum(N * form.groups(K) * form.scale_rows for form, N, K in layers)


def _bits(shapes: Shapes, config: CalibConfig) -> int:
    """Bits of the planes alone."""
    return sum(N * K * form.planes for form, N, K in shapes.layers(config.format.layer_formats))


def _planes(shapes: Shapes, config: CalibConfig) -> float:
    """Bytes of the results of blockwise calibration: planes, and stored scales."""
    return sum(N * form.row_bits(K) for form, N, K in shapes.layers(config.format.layer_formats)) / 8


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
