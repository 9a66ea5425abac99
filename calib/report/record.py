"""The record of a run, calibration.json: configuration, data, times, errors and figures of every layer.

    {"version": 1, "dualbinary": release, "config": {...},
     "model": {"name", "parameters", "quantised_parameters", "hidden", "vocabulary", "bits_per_weight", and where they
               are not one for all: "formats"; where inputs are rotated: "rotations", blocks by width or null},
     "budget": {"bits" or "size", "weights", "bits_per_weight", "bytes", "loss", "gap",
                "units": [{"modules", "place", "chosen", "formats", "bits", "losses"}],
                "frontier": [[bytes, loss]]} or absent,
     "data": {"length", "text_windows", "generated_windows", "files", ...} or null,
     "blocks": [{"name", "seconds", "error_before", "error_after", "layers": {name: {stage: figures}}}],
     "tables": [{"name", "format", "weights", "bits_per_weight", "weight_error", "output_error"}] or absent,
     "filter": {"by", "candidates", "chosen", "scores", "distinct", "sequences"} or absent,
     "e2e": {"curve", "best_step", "first_loss", "best_loss", "seconds"} or absent,
     "seconds": {"data", "budget", "init+block", "tables", "filter", "e2e"}}

`config` of a run with a budget says the formats that were chosen, so that it repeats the run without measuring.

The filter's figures are those of calib.stages.filter.choose, a layer's after a stage those of
calib.measure.layer_statistics; the stage layer adds "flipped", for each plane the share of bits that differ from the
initial ones. Block errors are there where the stage block ran. The inputs of layers are no longer known after
distillation: what needs them is null there. Errors of tables are those before distillation, relative and squared; that
of outputs is null for an embedding alone.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from calib.config import CalibConfig
from calib.report.files import MAX_NUMBER, Count, Part, Size, read_checked, write_checked
from dualbinary import OP, InputError

__all__ = ["RECORD_FILE", "RECORD_VERSION", "read_record", "read_record_file", "write_record"]

RECORD_FILE = "calibration.json"
RECORD_VERSION = 1

Loss = Annotated[float, Field(ge=-MAX_NUMBER, le=MAX_NUMBER)]
Shares = list[Annotated[float, Field(ge=0, le=1)]]
Correlations = list[Annotated[float, Field(ge=-1, le=1)]]


class _LayerFormat(Part):
    format: str
    bits_per_weight: Size


class _Model(Part):
    name: str
    parameters: Count
    quantised_parameters: Count  # the stored key
    hidden: Count
    vocabulary: Count
    bits_per_weight: Size
    formats: dict[str, _LayerFormat] | None = None
    rotations: dict[str, Annotated[Count, Field(ge=1)] | None] | None = None


class _Figures(Part):
    weights: Annotated[Count, Field(ge=1)]
    weight_error: Size
    output_error: Size | None
    density: Shares = Field(min_length=1, max_length=OP.limits["max_planes"])
    entropy: Size
    huffman_bits: Size
    level_shares: Shares
    corr_paths: Correlations | None
    corr_residual: Correlations | None
    flipped: Shares | None = None

    @model_validator(mode="after")
    def _fit_together(self) -> "_Figures":
        planes = len(self.density)
        if len(self.level_shares) != 1 << planes:
            raise ValueError(f"level_shares: expected {1 << planes} of {planes} planes, got {len(self.level_shares)}")
        for name in ("corr_paths", "corr_residual"):
            values = getattr(self, name)
            if values is not None and len(values) != planes - 1:
                raise ValueError(f"{name}: expected {planes - 1} of {planes} planes, got {len(values)}")
        return self


class _Block(Part):
    name: str
    seconds: Size
    error_before: Size | None = None
    error_after: Size | None = None
    layers: dict[str, Annotated[dict[Literal["init", "layer", "block", "e2e"], _Figures], Field(min_length=1)]]


class _Terms(Part):
    kl: Loss | None = None
    dad: Loss | None = None
    mse: Loss | None = None
    features: Loss | None = None


class _HeldOut(_Terms):
    loss: Loss
    ce: Loss


class _Point(_Terms):
    step: Count
    tokens: Count
    seconds: Size
    loss: Loss | None = None
    ce: Loss | None = None
    held_out: _HeldOut | None = None


class _Filter(Part):
    by: Literal["discrepancy", "random"]
    candidates: Count
    chosen: list[Count] = Field(min_length=1)
    scores: list[Loss] | None
    distinct: Shares
    sequences: str

    @model_validator(mode="after")
    def _fit_together(self) -> "_Filter":
        for name, values in (("scores", self.scores), ("distinct", self.distinct)):
            if values is not None and len(values) != self.candidates:
                raise ValueError(f"{name}: expected {self.candidates} numbers, got {len(values)}")
        if max(self.chosen) >= self.candidates or len(set(self.chosen)) < len(self.chosen):
            raise ValueError(f"chosen: expected numbers below {self.candidates}, none twice")
        return self


class _Distillation(Part):
    curve: list[_Point]
    best_step: Count
    first_loss: Loss | None
    best_loss: Loss | None
    seconds: Size


class _Table(Part):
    name: str
    format: str
    weights: Annotated[Count, Field(ge=1)]
    bits_per_weight: Size
    weight_error: Size
    output_error: Size | None


class _Unit(Part):
    modules: list[str] = Field(min_length=1)
    place: Count
    chosen: Count
    formats: list[str] = Field(min_length=1)
    bits: list[Size]
    losses: list[Size]

    @model_validator(mode="after")
    def _fit_together(self) -> "_Unit":
        if not len(self.formats) == len(self.bits) == len(self.losses) > self.chosen:
            raise ValueError("units: expected bits and a loss for each format, and one of them chosen")
        return self


class _Budget(Part):
    bits: Size | None = None
    size: Count | None = None
    weights: Annotated[Count, Field(ge=1)]
    bits_per_weight: Size
    bytes: Count
    loss: Size
    gap: Size
    units: list[_Unit] = Field(min_length=1)
    frontier: list[tuple[Count, Size]] = Field(min_length=1)


class _Record(Part):
    version: Literal[1]
    dualbinary: str
    config: CalibConfig
    model: _Model
    budget: _Budget | None = None
    data: dict[str, Any] | None
    blocks: list[_Block] = Field(min_length=1)
    tables: list[_Table] | None = None
    filter: _Filter | None = None
    e2e: _Distillation | None = None
    seconds: dict[str, Size]

    @model_validator(mode="after")
    def _layers_fit_together(self) -> "_Record":
        names = [name for block in self.blocks for name in block.layers]
        if not names:
            raise ValueError("blocks: expected at least one layer in all")
        if len(set(names)) < len(names):
            raise ValueError("blocks: a layer is in two of them")
        formats = self.model.formats
        if formats is not None and set(formats) != set(names):
            raise ValueError("model.formats: expected the format of every layer, and no other")
        for block in self.blocks:
            for name, stages in block.layers.items():
                planes = {len(figures.density) for figures in stages.values()}
                if len(planes) > 1:
                    raise ValueError(f"blocks: {name} has {sorted(planes)} planes, expected one number")
        return self


def read_record(directory: Path) -> dict[str, Any]:
    """The record of the checkpoint in `directory`. Raises InputError where there is none, or a damaged one."""
    file = directory / RECORD_FILE
    if not file.is_file():
        raise InputError(f"{directory}: has no {RECORD_FILE}; expected a checkpoint that python -m calib wrote")
    return read_record_file(file)


def read_record_file(file: Path) -> dict[str, Any]:
    """The record in `file`. Raises InputError where it is damaged, or none."""
    return read_checked(file, _Record, RECORD_VERSION)


def write_record(path: Path, value: dict[str, Any]) -> None:
    """Write a record to the file `path`, whole or not at all. Raises InputError where something is missing or wrong."""
    write_checked(path, _Record, value)
