"""A run from model directory to checkpoint: text, blockwise calibration, distillation, and the files.

    tokens       windows of the text                                    result "windows" of the work directory
    budget       with --bits or --size: what formats cost, and     results "sensitivity-000" and so on, "budget"
                 the choice of each layer's
    blockwise    weight initialization and reconstruction by block      one result for each block
    tables       vocabulary tables in planes, where that is asked for   result "tables"
    filter       generated sequences that e2e trains on                 result "scores"
    e2e          distillation of the whole model                        result "e2e"
    save         OUT_DIR, in one step                                   with calibration.json, the record of the run

A run that is killed resumes at the same command; what is finished is read back.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import KW_ONLY, asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from calib.budget.plan import chosen_budget, spend_budget
from calib.checks import checked_run
from calib.config import CalibConfig
from calib.data.collect import collect
from calib.data.generate import PARTS_SUFFIX, generate_to
from calib.data.window_counts import calibration_windows, held_out_windows, windows_wanted
from calib.layers import QuantLinear, quant_linears
from calib.measure import layer_statistics
from calib.models.blocks import choose_attention, compute_dtype
from calib.models.source import SourceModel, parameter_count
from calib.parallel import ALONE, Team
from calib.report.record import RECORD_FILE, RECORD_VERSION, write_record
from calib.report.summary import rotation_sentence
from calib.save import save_checkpoint
from calib.scale_parameters import stored_array, to_scales
from calib.stages.blockwise import calibrate_blockwise
from calib.stages.blockwise_results import BlockwiseResults
from calib.stages.context import RunContext
from calib.stages.distill import distill
from calib.stages.filter import RECORD_KEY, choose
from calib.stages.tables import quantize_tables, wants_tables
from calib.state import WorkDirectory, work_of
from calib.weight_init.base import InitialWeight
from dualbinary import InputError
from dualbinary.checkpoint import CONFIG_FILE
from dualbinary.cli.version import package_version
from dualbinary.contract.weight import PlaneWeight
from dualbinary.metrics.formats import format_words

__all__ = ["RunResult", "run"]

WINDOWS = "windows"  # the result that holds the tokens
GENERATED_SUFFIX = ".generated.safetensors"  # text that the model wrote, for --generated of other runs

Progress = Callable[..., None]


@dataclass(frozen=True)
class RunResult:
    """The result of a run."""

    directory: Path
    record: dict[str, Any]

    def summary(self) -> str:
        """One paragraph for people."""
        model, e2e = self.record["model"], self.record.get("e2e")
        text = (
            f"{self.directory}: {model['quantised_parameters'] / 1e6:.1f} of {model['parameters'] / 1e6:.1f} million "
            f"weights at {model['bits_per_weight']:.2f} bits, scales included"
        )
        if e2e and e2e["best_loss"] is not None:
            text += f"; held-out loss {e2e['first_loss']:.4f} -> {e2e['best_loss']:.4f} at step {e2e['best_step']}"
        if model.get("rotations"):
            text += f"; {rotation_sentence(model['rotations'])}"
        return f"{text}; {sum(self.record['seconds'].values()) / 60:.1f} minutes"

    def to_json(self) -> dict[str, Any]:
        """The record and where it is."""
        return {"directory": str(self.directory), **self.record}


def run(
    model_dir: Path,
    out_dir: Path,
    config: CalibConfig,
    *,
    team: Team = ALONE,
    fresh: bool = False,
    keep_work: bool = False,
    progress: Progress = lambda *_, **__: None,
) -> RunResult:
    """Calibrate the model in `model_dir` as `config` says and write a checkpoint to `out_dir`.

    `progress(stage, done, total, **figures)` is called with tokens done. The work directory is OUT_DIR.work; it goes
    once the checkpoint is there, unless `keep_work`. Of several processes the first one calibrates blocks and
    writes, and all of them distill; only the first one's record is whole. Raises InputError for input that cannot be
    used, before any work where that can be known.
    """
    if team.leads and out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise InputError(f"{out_dir}: exists and is not empty; expected a new directory")
    source, config, initial_weights, target = checked_run(model_dir, config, team)
    choose_attention(source, team.device, config.data.length)
    identity = {"config": config.to_json(), "model": _fingerprint(source), "dualbinary": package_version()}
    for key, directory in (("start", config.start), ("from", config.targets)):
        if directory is not None:
            identity[key] = _fingerprint_of(Path(directory))
    with WorkDirectory(work_of(out_dir), identity, fresh=fresh, reader=not team.leads) as work:
        generated = out_dir.with_name(out_dir.name + GENERATED_SUFFIX)
        reads_it = config.data.generated is not None and Path(config.data.generated).resolve() == generated.resolve()
        if fresh and team.leads and not reads_it:
            generated.unlink(missing_ok=True)
            shutil.rmtree(generated.with_name(generated.name + PARTS_SUFFIX), ignore_errors=True)
        dtype = compute_dtype(config.dtype, team.device)
        job = _Job(source, config, work, dtype, team, progress, generated=generated)
        record = job.run(initial_weights, target)
        if team.leads:
            record_file = work.path / RECORD_FILE
            write_record(record_file, record)
            save_checkpoint(source, out_dir, job.quantized, record=record_file)
            if not keep_work:
                work.remove()
        team.wait()
    return RunResult(out_dir, record)


@dataclass
class _Job(RunContext):
    _: KW_ONLY
    generated: Path
    trained: dict[str, PlaneWeight] = field(default_factory=dict)  # after distillation

    @cached_property
    def blockwise(self) -> BlockwiseResults:
        """The results of blockwise calibration, once it is done."""
        return BlockwiseResults(self.source, self.work)

    def run(
        self,
        initial_weights: Callable[[QuantLinear], InitialWeight] | None,
        target: Callable[[QuantLinear], Tensor] | None,
    ) -> dict[str, Any]:
        """Run all stages; return the record."""
        seconds: dict[str, float] = {}
        begin = time.perf_counter()
        tokens, origin = None, None
        if self.team.leads:
            tokens, origin = self._tokens()
            seconds["data"] = time.perf_counter() - begin
        budget = self._budget(tokens, seconds) if self.config.format.has_budget else None
        if self.team.leads:
            self._calibrate_blocks(tokens, initial_weights, target)
        self.team.wait()
        blocks = self.blockwise.reports()
        seconds["init+block"] = sum(block["seconds"] for block in blocks)
        record: dict[str, Any] = {
            "version": RECORD_VERSION,
            "dualbinary": package_version(),
            "config": self.config.to_json(),
            "model": self._sizes(),
            "data": origin,
            "blocks": blocks,
            "seconds": seconds,
            **({"budget": budget} if budget is not None else {}),
        }
        tables = wants_tables(self)
        if "e2e" in self.config.stages or tables:
            if not self.team.leads:
                tokens, _ = self._tokens()
            self._place()
        if tables:
            begin = time.perf_counter()
            record["tables"] = quantize_tables(self, self._calibration(tokens) if tokens is not None else None)
            for table in self.source.tables:
                self.trained[table.name] = _plane_weight(table, table.current_planes(), table.stored_scales.detach())
            seconds["tables"] = time.perf_counter() - begin
        if "e2e" in self.config.stages:
            assert tokens is not None
            if self.config.data.keep:
                begin = time.perf_counter()
                split = len(tokens) - self.config.e2e.held_out
                chosen, record[RECORD_KEY] = choose(self, tokens[:split])
                tokens = torch.cat([chosen, tokens[split:]])
                seconds["filter"] = time.perf_counter() - begin
            begin = time.perf_counter()
            result = distill(self, tokens)
            seconds["e2e"] = time.perf_counter() - begin
            record["e2e"] = {**asdict(result), "seconds": seconds["e2e"]}
            self._collect(blocks)
        return record

    def quantized(self, name: str) -> PlaneWeight:
        """The weight of a layer as it is stored, once `run` is done."""
        if name in self.trained:
            return self.trained[name]
        layer = self.source.linears[name]
        self.blockwise.restore(layer)
        return _plane_weight(layer, layer.current_planes(), layer.stored_scales.detach())

    def _tokens(self) -> tuple[Tensor | None, dict[str, Any] | None]:
        """Windows int64 [W, T], those that losses are measured on last; none where no stage looks at any."""
        if not self.config.needs_tokens:
            return None, None
        if self.work.has(WINDOWS):
            tensors, origin = self.work.read_tensors(WINDOWS)
            return tensors["tokens"], origin
        tokens, origin = collect(
            self.config.data,
            self.source.directory,
            windows_wanted(self.config),
            self.source.vocabulary,
            self.config.seed,
            self._generate,
        )
        minimum = held_out_windows(self.config) + 1
        if len(tokens) < minimum:
            raise InputError(
                f"the text is {len(tokens)} windows of {self.config.data.length} tokens, expected {minimum} or more; "
                "give more --text, or shorter windows with --length"
            )
        self.work.write_tensors(WINDOWS, {"tokens": tokens.contiguous()}, origin)
        return tokens, origin

    def _budget(self, tokens: Tensor | None, seconds: dict[str, float]) -> dict[str, Any]:
        """Spend the budget, and go on as the configuration that says how; figures for the record."""
        begin = time.perf_counter()
        if self.team.leads:
            assert tokens is not None
            spend_budget(self, self._calibration(tokens))
        self.team.wait()
        found = chosen_budget(self)
        self.config = found.config
        self.source.set_formats(found.config.format.layer_formats)
        seconds["budget"] = time.perf_counter() - begin
        return found.figures

    def _calibration(self, tokens: Tensor) -> Tensor:
        """The windows that stages before distillation learn from, none of those held out for it."""
        return tokens[: len(tokens) - held_out_windows(self.config)][: calibration_windows(self.config)]

    def _generate(self, count: int) -> Tensor:
        """`count` windows that the model writes itself."""
        model, length, told = self.source.model, self.config.data.length, partial(self.progress, "generate")
        self.source.load(model, linear_dtype=self.dtype)
        Module.to(model, self.team.device)  # transformers' own `to` has a signature that no checker understands
        options = {"seed": self.config.seed, "dtype": self.dtype, "start": bool(self.config.data.start_token)}
        tokens = generate_to(self.generated, model, count, length, **options, progress=told)
        self.source.unload(model)
        return tokens

    def _calibrate_blocks(
        self,
        tokens: Tensor | None,
        initial_weights: Callable[[QuantLinear], InitialWeight] | None,
        target: Callable[[QuantLinear], Tensor] | None,
    ) -> None:
        seen = None
        if tokens is not None and self.config.blockwise_reads_text:
            # What is held out for distillation, no stage before it may learn from.
            held_out = self.config.block.held_out if "block" in self.config.stages else 0
            seen = torch.cat([self._calibration(tokens), tokens[len(tokens) - held_out :]])
        calibrate_blockwise(self, seen, initial_weights=initial_weights, target=target)

    def _place(self) -> None:
        """Load the model with its calibrated planes, block by block, so that no process needs more than its part."""
        model, blocks = self.source.model, [block for _, block in self.source.blocks]
        for block in blocks:
            self.source.load(block, linear_dtype=self.dtype)
            for layer in quant_linears(block):
                self.blockwise.restore(layer)
            block.to(self.team.device)
            self.team.shard(block)
        self.source.load(model)
        Module.to(model, self.team.device)
        self.team.join(model.base_model, blocks)

    def _collect(self, blocks: list[dict[str, Any]]) -> None:
        """Take planes and scales from all processes, and add the figures of the layers to the record.

        The hessians of their inputs are no longer there, so those figures are of weights alone.
        """
        for table in self.source.tables:
            self.trained[table.name] = _plane_weight(table, table.current_planes(), table.stored_scales)
        for block in blocks:
            for name, stages in block["layers"].items():
                layer = self.source.linears[name]
                planes, scales, weight = map(self.team.whole, (layer.current_planes(), layer.scales, layer.weight))
                if self.team.leads:
                    scales = to_scales(layer.format, scales)
                    self.trained[name] = _plane_weight(layer, planes, scales)
                    form = layer.format
                    stages["e2e"] = layer_statistics(
                        layer.rotate(weight.float()), planes, scales, form.group_size, None, form.node_levels
                    )

    def _sizes(self) -> dict[str, Any]:
        """Parameters of the model, and stored bits of a quantized weight, padding and scales included."""
        layers = self.source.linears
        config = self.source.model.config.get_text_config()
        weights = {name: layer.out_features * layer.in_features for name, layer in layers.items()}
        bits = {name: layer.out_features * layer.format.row_bits(layer.in_features) for name, layer in layers.items()}
        sizes = {
            "name": self.source.directory.resolve().name,
            "parameters": parameter_count(self.source.model),
            "quantised_parameters": sum(weights.values()),
            "hidden": config.hidden_size,
            "vocabulary": config.vocab_size,
            "bits_per_weight": sum(bits.values()) / sum(weights.values()),
        }
        rotations = {str(layer.in_features): layer.stored_rotation for layer in layers.values()}
        if self.config.format.rotate is not None or any(rotations.values()):
            sizes["rotations"] = {width: one.block_size if one else None for width, one in rotations.items()}
        if not self.source.formats.overrides:
            return sizes
        formats = {
            name: {"format": format_words(layer.format), "bits_per_weight": bits[name] / weights[name]}
            for name, layer in layers.items()
        }
        return {**sizes, "formats": formats}


def _plane_weight(layer: QuantLinear, planes: Tensor, scales: Tensor) -> PlaneWeight:
    planes, scales = planes.cpu(), scales.detach().cpu()
    return PlaneWeight(planes.numpy(), stored_array(layer.format, scales), layer.in_features, layer.format)


def _fingerprint(source: SourceModel) -> dict[str, Any]:
    """Files, sizes and dates, which tell this model from another one without reading all of it."""
    return _status({stored.file for stored in source.tensors.values()} | {source.directory / CONFIG_FILE})


def _fingerprint_of(directory: Path) -> dict[str, Any]:
    """The same of a directory whose weights a run begins with or approaches."""
    return _status({*directory.glob("*.safetensors"), directory / CONFIG_FILE})


def _status(files: set[Path]) -> dict[str, Any]:
    status = {file.name: file.stat() for file in sorted(files)}
    return {name: [entry.st_size, entry.st_mtime_ns] for name, entry in status.items()}
