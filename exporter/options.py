"""What an export is asked to do: one frozen, validated value that every later step reads."""

from dataclasses import dataclass

from dualbinary import OP, InputError

__all__ = ["CUDA_PLANES", "FALLBACKS", "LOGITS", "PLAIN_PLANES", "SCALE_BITS", "TARGETS", "ExportOptions"]

FALLBACKS = ("ort4", "ort2", "standard", "none")
LOGITS = ("last", "all")
SCALE_BITS = (8, 16)
TARGETS = {"cpu": "fp32", "cuda": "fp16"}
"""What a model is made for, and the type of its activations unless another one is asked for."""

CUDA_PLANES = OP.cuda["max_planes"]
"""Planes that the CUDA kernels take at most."""

# Planes for a directory without trained planes. Two planes fitted without data ruin a model; four with an offset hold
# any four-bit affine grid, which is the least that is good text without training (docs/log.md).
PLAIN_PLANES = 4


@dataclass(frozen=True)
class ExportOptions:
    """Options of `exporter.export`.

    planes, group_size, offset: the fit of a plain directory; a checkpoint of ours carries its own and refuses these.
        None means the default: 4 planes, groups of 64, with offset (no offset where planes are given and are not 4).
    scale_bits: 8 rounds scales to 8-bit codes with a float16 factor for each output and plane; 16 keeps what a
        checkpoint stores, and is float16 for a fit.
    layout: name of the stored layout of planes and scales; "plain" runs everywhere, the others are ready for the
        instruction set that they are named after and run nowhere else.
    accuracy_level: what kernels may do to activations: 0 keeps 15 bits or better, 4 allows int8.
    dtype: element type of activations, KV cache and everything that is not quantized: "fp32" or "fp16"; None means
        that of the target. Attention and cache are float16 for "cuda" in either case, as its kernel is.
    embedding_bits: 4, 8, 16 or 32 for the token embedding and the head.
    logits: "last" gives the logits [batch, 1, V] behind the last token of what is fed, "all" those behind every one.
    fallback: body of the model-local function that runs the op where the library is absent.
    target: execution provider that the graph is made for and genai_config.json selects: "cpu" or "cuda".
    """

    planes: int | None = None
    group_size: int | None = None
    offset: bool | None = None
    scale_bits: int = 16
    layout: str = OP.layouts[0].name
    accuracy_level: int = 0
    dtype: str | None = None
    embedding_bits: int = 8
    logits: str = "last"
    fallback: str = "ort4"
    target: str = "cpu"

    def __post_init__(self) -> None:
        """Raise InputError for a value that no export could use."""
        limits = OP.limits
        if self.planes is not None and not limits["min_planes"] <= self.planes <= limits["max_planes"]:
            raise InputError(f"--planes must be {limits['min_planes']} to {limits['max_planes']}, got {self.planes}")
        multiple = limits["group_multiple"]
        if self.group_size is not None and (self.group_size < multiple or self.group_size % multiple):
            raise InputError(f"--group-size must be a positive multiple of {multiple}, got {self.group_size}")
        for name, value, allowed in (
            ("--scale-bits", self.scale_bits, SCALE_BITS),
            ("--layout", self.layout, [layout.name for layout in OP.layouts]),
            ("--accuracy-level", self.accuracy_level, OP.attribute("accuracy_level").values),
            ("--dtype", self.dtype, (None, "fp32", "fp16")),
            ("--embedding-bits", self.embedding_bits, (4, 8, 16, 32)),
            ("--logits", self.logits, LOGITS),
            ("--fallback", self.fallback, FALLBACKS),
            ("--target", self.target, TARGETS),
        ):
            if value not in allowed:
                names = ", ".join(str(each) for each in allowed if each is not None)
                raise InputError(f"{name} must be one of {names}, got {value}")
        if self.target == "cuda":
            self._refuse_what_cuda_lacks()

    def _refuse_what_cuda_lacks(self) -> None:
        plain = OP.layouts[0].name
        if self.layout != plain:
            raise InputError(
                f"--target cuda: its kernels pack layout {plain} themselves, got --layout {self.layout}, which is for "
                "CPUs; leave --layout out, or use --target cpu"
            )
        if self.planes is not None and self.planes > CUDA_PLANES:
            raise InputError(
                f"--target cuda: its kernels take 1 to {CUDA_PLANES} planes, got --planes {self.planes}; use fewer, or "
                "--target cpu"
            )

    @property
    def activations(self) -> str:
        """Element type of activations: "fp32" or "fp16"."""
        return TARGETS[self.target] if self.dtype is None else self.dtype

    @property
    def fit_planes(self) -> int:
        """Planes of a data-free fit."""
        return PLAIN_PLANES if self.planes is None else self.planes

    @property
    def fit_group_size(self) -> int:
        """Group size of a data-free fit."""
        return 64 if self.group_size is None else self.group_size

    @property
    def fit_offset(self) -> bool:
        """Whether a data-free fit has an offset row."""
        return (self.planes in (None, PLAIN_PLANES)) if self.offset is None else self.offset
