"""The request for a calibration run: one frozen, checked value, saved with the result and read back by --config.

Rates are relative to the root mean square of the full-precision weight of a layer, lr = rate * rms(W), so that they
carry over between layers and models.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import pydantic_core
from pydantic import (
    Field,
    PositiveInt,
    field_validator,
    model_validator,
)

from calib.format_config import NEWEST, FormatConfig
from calib.loss_weights import LossWeights
from calib.settings import Settings
from calib.weight_init import WEIGHT_INITS
from calib.weight_init.base import InitSettings
from dualbinary import InputError
from dualbinary.files.json_objects import read_json_object

__all__ = [
    "STAGES",
    "START_TOKEN",
    "BlockConfig",
    "CalibConfig",
    "DataConfig",
    "DistillConfig",
    "FormatConfig",
    "InitConfig",
    "LayerConfig",
]

# Version 2 adds the keys format.method, layer and targets, version 3 those of NEWEST, version 4 data.start_token, which
# is false in older ones. What an older version says means what it meant, and a configuration is written in the oldest
# version that can say it.
CONFIG_VERSION, FORMS_VERSION, OLDER_VERSION = 4, 3, 2
STAGES = ("init", "layer", "block", "e2e")
START_TOKEN = "start_token"  # the key of DataConfig

Rate = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class DataConfig(Settings):
    """Sources of tokens. With neither text nor generated sequences only data-free stages can run."""

    text: tuple[str, ...] = Field(default=(), description="files or patterns: txt, jsonl, parquet, also compressed")
    separator: str | None = Field(default=None, description="text between documents of a file; none: a file is one")
    generate: int = Field(default=0, ge=0, description="sequences that the teacher writes itself")
    generated: str | None = Field(default=None, description="a file of such sequences, made before")
    keep: int = Field(default=0, ge=0, description="generated sequences that e2e trains on; 0: as they come")
    keep_by: Literal["discrepancy", "random"] = Field(
        default="discrepancy", description="which: those where student and teacher differ most as e2e begins, or any"
    )
    scores: str | None = Field(
        default=None, description="calibration.json of a run from the same state that scored the same sequences"
    )
    text_share: Share = Field(default=0.5, description="share of text where there is text and generated sequences")
    length: int = Field(default=512, ge=8, description="T, tokens in a window")
    start_token: bool | None = Field(
        default=None,
        description="begin windows with the token that the tokenizer puts before a text, as <bos> (default: where it "
        "puts one)",
    )

    @model_validator(mode="after")
    def _can_choose(self) -> "DataConfig":
        if self.keep and self.text:
            raise ValueError("keep: chooses among generated sequences; leave out text")
        if self.keep and self.generate and self.keep > self.generate:
            raise ValueError(f"keep: expected at most the {self.generate} sequences that are generated")
        if self.scores and not (self.keep and self.keep_by == "discrepancy"):
            raise ValueError("scores: are for choosing sequences; expected a number to keep, by discrepancy")
        return self


class _InitChoice(Settings):
    method: str = Field(default="error-feedback", description=f"one of {', '.join(WEIGHT_INITS)}")
    windows: PositiveInt = Field(default=64, description="windows that the hessian of the inputs is taken over")

    @field_validator("method")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in WEIGHT_INITS:
            raise ValueError(f"expected one of {', '.join(WEIGHT_INITS)}")
        return value


class InitConfig(InitSettings, _InitChoice):
    """Weight initialization: the first planes and scales of every layer."""


class LayerConfig(Settings):
    """Layer-wise binarization of QBB: bases and their scales nearer to the weight, whatever the inputs are."""

    solver: Literal["closed-form", "iterative", "simultaneous"] = Field(
        default="closed-form",
        description="alternating least squares, or gradients: one basis after another (the paper's), or all at once",
    )
    rounds: PositiveInt = Field(default=40, description="alternations of scales and bits (closed-form)")
    steps: PositiveInt = Field(default=100, description="gradient steps for each basis (iterative, simultaneous)")
    latent_rate: Rate = Field(default=0.01, description="step of latents, as a share of a Newton step (gradients)")
    scale_rate: Rate = Field(default=0.3, description="step of scales, as a share of a Newton step (gradients)")


class BlockConfig(Settings):
    """Block-wise reconstruction: latents and scales of a block trained together."""

    windows: PositiveInt = Field(default=96, description="windows trained on")
    held_out: PositiveInt = Field(default=8, description="windows that the error is measured on")
    epochs: PositiveInt = Field(default=1, description="passes over the windows, for each block")
    batch: PositiveInt = Field(default=2, description="windows in a step")
    latent_rate: Rate = Field(default=0.01, description="learning rate of latents, relative")
    scale_rate: Rate = Field(default=0.001, description="learning rate of scales, relative")


class _DistillBatches(Settings):
    steps: PositiveInt = Field(default=300, description="optimizer steps")
    batch: PositiveInt = Field(default=1, description="windows in a step")
    micro_batch: PositiveInt = Field(default=1, description="windows at a time; gradients are accumulated over a step")


class _DistillTraining(Settings):
    swap: Share = Field(
        default=0.0, description="highest probability of a teacher's block to be the student's in a step; 0: never"
    )
    swap_schedule: Literal["falling", "rising"] = Field(
        default="falling", description="whether that probability goes down to 0 over the steps, or up from it"
    )
    scale_rate: Rate = Field(default=0.001, description="learning rate of scales, relative")
    latent_rate: Rate = Field(default=0.0, description="learning rate of latents, relative; 0: planes stay")
    warmup: int = Field(default=10, ge=0, description="steps until the rate is whole")
    held_out: int = Field(default=8, ge=0, description="windows that loss is measured on")
    evaluate_every: PositiveInt = Field(default=50, description="steps between measurements; the best state is kept")
    gradient_checkpointing: bool = Field(default=False, description="recompute activations: less memory, 1/3 more time")


# Bases in the order in which a stored configuration lists their keys, last first.
class DistillConfig(_DistillTraining, LossWeights, _DistillBatches):
    """End-to-end distillation of the whole model from its full-precision self."""


class CalibConfig(Settings):
    """A run: stages in order, format, data and what each stage does."""

    version: Literal[1, 2, 3, 4] = CONFIG_VERSION
    stages: tuple[Literal["init", "layer", "block", "e2e"], ...] = Field(
        default=("init", "block", "e2e"), description="stages to run, joined by commas, in this order; layer is QBB's"
    )
    start: str | None = Field(default=None, description="a checkpoint to start from, in place of the stage init")
    targets: str | None = Field(
        default=None,
        description="a model whose weights init and layer approach in place of MODEL_DIR's: another quantizer's result",
    )
    skip: tuple[str, ...] = Field(default=(), description="patterns of modules that keep full precision")
    format: FormatConfig = FormatConfig()
    data: DataConfig = DataConfig()
    init: InitConfig = InitConfig()
    layer: LayerConfig = LayerConfig()
    block: BlockConfig = BlockConfig()
    e2e: DistillConfig = DistillConfig()
    seed: int = Field(default=0, ge=0, lt=1 << 32, description="of everything random")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(default="auto", description="of products; sums are float32")
    cache_gb: float = Field(default=64.0, gt=0, description="limit of the activations kept on disk, GB")

    @field_validator("version")
    @classmethod
    def _newest(cls, _: int) -> int:
        """Whatever was read, `to_json` decides anew."""
        return CONFIG_VERSION

    @model_validator(mode="after")
    def _method_fits(self) -> "CalibConfig":
        method = self.format.method
        if "layer" in self.stages and method != "qbb":
            raise ValueError(f"stages: layer belongs to --method qbb, not to {method}")
        formats = self.format.layer_formats
        even = formats.default.even or any(one.values.get("levels") == "even" for one in formats.overrides)
        even = even or self.format.has_budget
        kinds = {method: method, **({"even": "even levels"} if even else {})}
        for kind, words in kinds.items() if "init" in self.stages else ():
            allowed = [name for name, row in WEIGHT_INITS.items() if kind in row.methods]
            if self.init.method not in allowed:
                raise ValueError(
                    f"init.method: expected one of {', '.join(allowed)} for {words}, got {self.init.method}"
                )
        if self.targets is not None and not {"init", "layer"} & set(self.stages):
            raise ValueError("targets: only the stages init and layer look at them; leave out --from")
        return self

    @model_validator(mode="after")
    def _tables_fit(self) -> "CalibConfig":
        if self.format.has_tables and "e2e" in self.stages and self.e2e.dad:
            asked = "--size" if self.format.embedding_bits is None else "--embedding-bits"
            raise ValueError(
                f"e2e.dad: expected 0 with {asked}, as deviation-aware distillation trains no head, got {self.e2e.dad}"
            )
        return self

    @model_validator(mode="after")
    def _stages_fit(self) -> "CalibConfig":
        if not self.stages or list(self.stages) != [stage for stage in STAGES if stage in self.stages]:
            raise ValueError(f"stages: expected some of {', '.join(STAGES)}, in this order, each once")
        if ("init" in self.stages) == (self.start is not None):
            raise ValueError("expected either the stage init or a checkpoint to continue from")
        if self.format.has_budget and self.start is not None:
            raise ValueError("format.bits: a checkpoint to start from has its formats; leave out --bits and --size")
        if self.data.keep and "e2e" not in self.stages:
            raise ValueError("data.keep: chooses what the stage e2e trains on; add it, or keep all")
        return self

    @property
    def needs_tokens(self) -> bool:
        """Some stage looks at text."""
        trains = "block" in self.stages or "e2e" in self.stages or self.format.embedding_bits is not None
        return (
            trains or self.format.has_budget or ("init" in self.stages and WEIGHT_INITS[self.init.method].needs_inputs)
        )

    @property
    def blockwise_reads_text(self) -> bool:
        """Blockwise calibration looks at text: that of QBB only where something asks for it."""
        if "block" in self.stages:
            return True
        asked = WEIGHT_INITS[self.init.method].needs_inputs
        if self.format.method != "qbb":
            asked = asked or "e2e" in self.stages
        return "init" in self.stages and asked

    def to_json(self) -> dict[str, Any]:
        """The value as JSON data, in the oldest version that can say it; `from_json` gives it back."""
        value = self.model_dump(mode="json")
        if value["data"][START_TOKEN] is not False:
            return value
        del value["data"][START_TOKEN]
        return {**value, "version": FORMS_VERSION if value["format"].keys() & set(NEWEST) else OLDER_VERSION}

    def with_start_token(self, known: bool) -> "CalibConfig":
        """What was asked for by a tokenizer that has such a token, or has none."""
        if self.data.start_token is not None:
            return self
        return self.model_copy(update={"data": self.data.model_copy(update={START_TOKEN: known})})

    @classmethod
    def from_json(cls, value: object, origin: str) -> "CalibConfig":
        """Read what `to_json` wrote. Raises InputError, naming `origin` and the key, for anything else."""
        version = value.get("version") if isinstance(value, dict) else None
        if type(version) is int and version > CONFIG_VERSION:
            raise InputError(
                f"{origin}: version: {version} is newer than {CONFIG_VERSION}, the newest that this release reads; "
                "upgrade dualbinary"
            )
        data = value.get("data", {}) if isinstance(value, dict) else None
        if isinstance(value, dict) and isinstance(data, dict) and type(version) is int and version <= FORMS_VERSION:
            value = {**value, "data": {START_TOKEN: False, **data}}  # windows of older versions begin anywhere
        try:
            return cls.model_validate_json(pydantic.TypeAdapter(Any).dump_json(value))
        except pydantic.ValidationError as error:
            raise InputError(f"{origin}: {explain(error)}") from None
        except pydantic_core.PydanticSerializationError as error:  # half a surrogate pair, which JSON can write
            raise InputError(f"{origin}: {error}") from None

    @classmethod
    def read(cls, path: Path) -> "CalibConfig":
        """Read a configuration, or the record of a run, calibration.json, which holds one. Raises InputError."""
        value = read_json_object(path)
        return cls.from_json(value.get("config", value), str(path))


def explain(error: pydantic.ValidationError) -> str:
    """The first thing that is wrong, in one line."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    shown = f", got {given!r}" if isinstance(given, (str, int, float)) else ""
    return f"{where}: {message}{shown}" if where else message
