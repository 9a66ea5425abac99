"""The options of an export: one frozen, checked value that every later step reads, and the command line is made of."""

from dataclasses import dataclass

from dualbinary import OP
from dualbinary.cli.options import check_options, option
from dualbinary.errors import OptionError

__all__ = ["CUDA_PLANES", "DEFAULT_GROUP_SIZE", "DEFAULT_PLANES", "FITTED", "MIN_LENGTH", "TARGETS", "ExportOptions"]

TARGETS = {"cpu": "fp32", "cuda": "fp16"}
"""Execution providers that a model is made for, and the type of its activations unless another one is asked for."""

CUDA_PLANES = OP.cuda["max_planes"]
"""Planes that the CUDA kernels take at most."""

# Planes for a directory without trained planes. Two planes fitted without data ruin a model; four with an offset hold
# any four-bit affine grid, which is the least that is good text without training (docs/log/fitting.md).
DEFAULT_PLANES = 4
DEFAULT_GROUP_SIZE = 64

MIN_LENGTH = 8
"""Tokens that a model is made for at least."""

FITTED = "planes of a plain directory (a checkpoint brings its own)"
GRAPH = "graph"


@dataclass(frozen=True)
class ExportOptions:
    """Options of `exporter.export`.

    `planes`, `group_size` and `offset` are those of a fit. None means the default, and is all that a checkpoint of ours
    accepts, which carries its own.
    """

    planes: int | None = option(
        None,
        help="binary planes",
        minimum=OP.limits["min_planes"],
        maximum=OP.limits["max_planes"],
        shown=f"default {DEFAULT_PLANES}",
        metavar="P",
        group=FITTED,
    )
    group_size: int | None = option(
        None,
        help="weights per scale",
        multiple=OP.limits["group_multiple"],
        shown=f"default {DEFAULT_GROUP_SIZE}",
        metavar="G",
    )
    offset: bool | None = option(None, help="an offset per group", shown=f"default: with {DEFAULT_PLANES} planes")
    scale_bits: int = option(
        16,
        help="16: float16 scales, or as a checkpoint stores them; 8: rounded to 8 bits, with a float16 factor per "
        "output and plane, for a smaller and faster file; 32: float32 scales, for weights beyond float16's range",
        choices=(8, 16, 32),
        group=GRAPH,
    )
    layout: str = option(
        OP.layouts[0].name,
        help="byte order of planes and scales in the file: plain runs on every CPU; the others are ready for one "
        "instruction set: a device maps the file and starts at once, and other CPUs refuse it; dualbinary relayout "
        "converts between them",
        choices=tuple(layout.name for layout in OP.layouts),
    )
    accuracy_level: int = option(
        0,
        help="what kernels may do to activations: 0 keeps 15 bits or better; 4 allows int8, which is faster",
        choices=tuple(OP.attribute("accuracy_level").values),
    )
    dtype: str | None = option(
        None,
        help="type of activations, KV cache and everything that is not quantized; with {target} cuda, attention and "
        "cache are fp16 in either case",
        choices=("fp32", "fp16"),
        shown=f"default {TARGETS['cpu']}, with {{target}} cuda {TARGETS['cuda']}",
    )
    embedding_bits: int = option(8, help="bits of token embedding and head", choices=(2, 3, 4, 8, 16, 32))
    logits: str = option(
        "last",
        help="last: logits [batch, 1, V] of the last token only, all that generating needs; all: of every token",
        choices=("last", "all"),
    )
    max_length: int | None = option(
        None,
        help="tokens, prompt and answer together, that the model is made for; a session keeps tables of the rotation "
        "for so many",
        minimum=MIN_LENGTH,
        shown="default: the model's context, or as much of it as 64 MiB of tables hold",
        metavar="N",
    )
    batch_steps: str = option(
        "one",
        help="new tokens that the rows of a batch may each take after a prompt: one, which every ONNX Runtime computes "
        "and older ones take no more; many needs ONNX Runtime 1.32, on the CPU or CUDA. A single sequence takes many "
        "in either case",
        choices=("one", "many"),
    )
    op: str = option(
        "dualbinary",
        help="operator of the linear layers: dualbinary, for hosts that register the library, with a fallback function "
        "for the others; matmulnbits, ONNX Runtime's own alone, for WebGPU and other execution providers, which takes "
        "even levels",
        choices=("dualbinary", "matmulnbits"),
    )
    fallback: str = option(
        "ort4",
        help="body of the function inside the model that runs the operator where the library is absent; ort2 takes "
        "less memory than ort4 and needs {accuracy_level} 4",
        choices=("ort4", "ort2", "standard", "none"),
    )
    target: str = option(
        "cpu",
        help="execution provider of ONNX Runtime that the graph and genai_config.json are made for; cuda takes "
        f"{{layout}} plain and 1 to {CUDA_PLANES} planes",
        choices=tuple(TARGETS),
    )

    def __post_init__(self) -> None:
        """Raise OptionError for a value that no export could use."""
        check_options(self)
        if self.fallback == "ort2" and self.accuracy_level == 0:
            expected = "ort4, standard or none at {accuracy_level} 0, where ONNX Runtime is slow with two bits"
            raise OptionError("fallback", expected, self.fallback, "use {fallback} ort4, or {accuracy_level} 4")
        plain = OP.layouts[0].name
        if self.op == "matmulnbits":
            self._check_stock(plain)
            return
        if self.target != "cuda":
            return
        if self.layout != plain:
            expected = f"{plain} with {{target}} cuda, whose kernels pack weights themselves"
            raise OptionError("layout", expected, self.layout, "leave {layout} out, or use {target} cpu")
        if self.planes is not None and self.planes > CUDA_PLANES:
            expected = f"1 to {CUDA_PLANES} with {{target}} cuda"
            raise OptionError("planes", expected, self.planes, "use fewer, or {target} cpu")

    def _check_stock(self, plain: str) -> None:
        """Refuse what says nothing of a graph without our operator."""
        for name, only in (("layout", plain), ("fallback", "ort4")):
            if (value := getattr(self, name)) != only:
                expected = "no value with {op} matmulnbits, whose graph has neither our operator nor its fallback"
                raise OptionError(name, expected, value, f"leave {{{name}}} out, or use {{op}} dualbinary")
        if self.embedding_bits == 3:
            expected = "2, 4, 8, 16 or 32 with {op} matmulnbits"
            raise OptionError("embedding_bits", expected, 3, "use 4, or {op} dualbinary")

    @property
    def activations(self) -> str:
        """Element type of activations: "fp32" or "fp16"."""
        return TARGETS[self.target] if self.dtype is None else self.dtype

    @property
    def fit_planes(self) -> int:
        """Planes of a data-free fit."""
        return DEFAULT_PLANES if self.planes is None else self.planes

    @property
    def fit_group_size(self) -> int:
        """Group size of a data-free fit."""
        return DEFAULT_GROUP_SIZE if self.group_size is None else self.group_size

    @property
    def fit_offset(self) -> bool:
        """True where a data-free fit has an offset row."""
        return (self.fit_planes == DEFAULT_PLANES) if self.offset is None else self.offset
