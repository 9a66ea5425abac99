"""The form that weights take, and budgets that choose it: the part `format` of a run's configuration."""

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from calib.layer_formats import FREE_PLANES, SCALE_TYPES, LayerFormats, Override, checked_format, middle
from calib.settings import Settings
from dualbinary import InputError
from dualbinary.checkpoint import PER_CHANNEL
from dualbinary.contract.rotation import LEAST_BLOCK
from dualbinary.contract.schema import HADAMARD, OP
from dualbinary.contract.weight import EACH_GROUP, PlaneFormat
from dualbinary.files.sizes import parse_size

__all__ = ["NEWEST", "FormatConfig"]

NEWEST = (
    "levels",
    "zero",
    "scale_type",
    "override",
    "embedding_bits",
    "rotate",
    "bits",
    "size",
    "other_bytes",
    "measured",
)
"""Keys that configurations of version 2 do not have."""
PLANNED_TABLES = 4  # bits of vocabulary tables in a plan of a budget that chooses them


class FormatConfig(Settings):
    """The form that weights take: P planes, groups of G inputs, levels; and of some modules another one."""

    method: Literal["fdb", "qbb"] = Field(
        default="fdb", description="planes of 0 and 1 with free scales, or bases of -1 and 1 with a scale each (QBB)"
    )
    planes: int = Field(
        default=2,
        ge=1,
        le=OP.limits["max_planes"],
        description=f"P, binary planes, which QBB calls bases; with free levels at most {FREE_PLANES}",
    )
    group_size: int = Field(
        default=96,
        description=f"G, inputs that share scales; a multiple of 32, or {PER_CHANNEL}: all of an output; "
        f"{OP.limits['half_group']} with even levels",
    )
    offset: bool = Field(default=True, description="an offset for each group; QBB's is minus the sum of its scales")
    levels: Literal["free", "even"] = Field(
        default="free", description="a scale for each plane, or one step for all: evenly spaced levels"
    )
    zero: float | Literal["group"] | None = Field(
        default=None,
        description=f"of even levels without an offset, the number that stands for 0, or {EACH_GROUP}: each group has "
        "one (default: the middle)",
    )
    scale_type: Literal["float16", "float32", "bfloat16", "uint8"] = Field(
        default="float16", description="type of the stored scales; uint8: codes of 8 bits, rounded to at the end"
    )
    embedding_bits: Literal[2, 3, 4, 8] | None = Field(
        default=None,
        description="bits of token embedding and head, whose scales e2e trains too (default: they stay as they are)",
    )
    override: tuple[str, ...] = Field(
        default=(),
        description="other values for some modules, as PATTERN:planes=3,group_size=32,levels=even; the last one wins",
    )

    rotate: int | None = Field(
        default=None,
        description="rotate what layers read, by signs and a Walsh-Hadamard transform, in blocks of the largest power "
        "of two that divides their inputs, up to this one, a power of two (default: no rotation)",
    )

    bits: float | None = Field(
        default=None,
        gt=1,
        le=8.5,
        description="a budget: the bits of a weight of the linear layers, with all scales, of which each layer gets a "
        "part by what it gains; planes, group sizes and levels of layers without an override follow from it",
    )
    size: int | None = Field(
        default=None,
        description="a budget in the bytes of the exported file, or as 60MB, 1.5GB: all quantized weights, those of "
        "vocabulary tables too, and --other-bytes",
    )
    measured: str | None = Field(
        default=None,
        description="calibration.json of another run with a budget of the same model: what it measured is taken",
    )
    other_bytes: int = Field(
        default=0, ge=0, description="bytes of the exported file beside quantized weights; the exporter gives them"
    )

    @field_validator("size", mode="before")
    @classmethod
    def _bytes(cls, value: object) -> object:
        """A number of bytes, as people write it."""
        try:
            return parse_size(value) if isinstance(value, str) else value
        except InputError as error:
            raise ValueError(str(error)) from None

    @field_validator("size")
    @classmethod
    def _some(cls, value: int | None) -> int | None:
        if value is not None and value <= 0:
            raise ValueError("expected a number of bytes above 0")
        return value

    @field_validator("rotate")
    @classmethod
    def _power(cls, value: int | None) -> int | None:
        most = HADAMARD.limits["max_block_size"]
        if value is not None and (not LEAST_BLOCK <= value <= most or value & (value - 1)):
            raise ValueError(f"expected a power of two from {LEAST_BLOCK} to {most}")
        return value

    @field_validator("group_size")
    @classmethod
    def _multiple(cls, value: int) -> int:
        multiple, half = OP.limits["group_multiple"], OP.limits["half_group"]
        if value not in (PER_CHANNEL, half) and (value <= 0 or value % multiple):
            raise ValueError(f"expected a multiple of {multiple}, or {PER_CHANNEL} for one group per output")
        return value

    @field_validator("zero", mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        """A number that a command line has as text."""
        try:
            return float(value) if isinstance(value, str) else value
        except ValueError:
            return value

    @field_validator("override")
    @classmethod
    def _readable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            Override.parse(text)
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> "FormatConfig":
        if self.method == "qbb" and not self.offset:
            raise ValueError("bases of -1 and 1 are stored as planes with an offset; leave out --no-offset")
        if self.method == "qbb" and self.levels == "even":
            raise ValueError("levels: even ones belong to --method fdb, not to qbb, whose bases have a scale each")
        if self.bits is not None and self.size is not None:
            raise ValueError("size: expected no --bits beside it, two budgets; leave out one of them")
        if self.method == "qbb" and (self.bits is not None or self.size is not None):
            raise ValueError("bits: a budget belongs to --method fdb, not to qbb")
        if self.measured is not None and not self.has_budget:
            raise ValueError("measured: expected no value without --bits or --size, which spend what was measured")
        if self.zero is not None and (self.levels != "even" or self.offset):
            raise ValueError("zero: belongs to --levels even with --no-offset; add both, or leave it out")
        _ = self.plane_format
        return self

    @model_serializer(mode="wrap")
    def _in_the_oldest_words(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is new and at its default: a run without it stays the same run."""
        fields = type(self).model_fields
        return {
            key: value
            for key, value in handler(self).items()
            if key not in NEWEST or getattr(self, key) != fields[key].default
        }

    @property
    def plane_format(self) -> PlaneFormat:
        """The same as the layers take it, without overrides."""
        levels = "symmetric" if self.method == "qbb" else self.levels
        zero = middle(levels, self.planes, self.offset) if self.zero is None else self.zero
        scale_type = SCALE_TYPES[self.scale_type]
        form = PlaneFormat(self.planes, self.group_size, self.offset, levels=levels, zero=zero, scale_dtype=scale_type)
        return checked_format(form)

    @property
    def has_budget(self) -> bool:
        """Formats are chosen by the run itself."""
        return self.bits is not None or self.size is not None

    @property
    def has_tables(self) -> bool:
        """Vocabulary tables become planes: they are asked for, or a budget of bytes has a part for them."""
        return self.embedding_bits is not None or self.size is not None

    @property
    def as_planned(self) -> "FormatConfig":
        """One format of about as many bits in place of a budget, for plans; three planes and tables for bytes."""
        if not self.has_budget:
            return self
        planes = 3 if self.bits is None else min(8, max(1, round(self.bits - 0.3)))
        form = {"planes": planes, "group_size": 64, "offset": True, "levels": "even", "zero": None}
        tables = self.embedding_bits or (PLANNED_TABLES if self.size is not None else None)
        form |= {"scale_type": "uint8", "embedding_bits": tables}
        none = dict.fromkeys(("bits", "size", "measured"))
        return FormatConfig.model_validate({**dict(self), **form, **none})

    @property
    def layer_formats(self) -> LayerFormats:
        """The format of every module."""
        return LayerFormats(self.plane_format, tuple(map(Override.parse, self.override)))
