"""The options of an export: one frozen, checked value that every later step reads, and the command line is made of."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from dualbinary import HADAMARD, OP
from dualbinary.cli.options import check_options, option
from dualbinary.contract.layout import CODES
from dualbinary.contract.weight import EACH_GROUP, LEVELS, PlaneFormat
from dualbinary.errors import OptionError
from dualbinary.fitting.default_form import DEFAULT_FORM
from dualbinary.fitting.table_forms import TABLE_BITS
from dualbinary.onnx_files.same_bits import ROWS_BY_LEVEL

__all__ = [
    "CUDA_PLANES",
    "DEFAULT_GROUP_SIZE",
    "DEFAULT_PLANES",
    "FITTED",
    "MIN_LENGTH",
    "STOCK",
    "TARGETS",
    "ExportOptions",
]

TARGETS = {"cpu": "fp32", "cuda": "fp16"}
"""Execution providers that a model is made for, and the type of its activations unless another one is asked for."""

CUDA_PLANES = OP.cuda["max_planes"]
"""Planes that the CUDA kernels take at most."""

DEFAULT_PLANES = 4  # where something else is asked for
DEFAULT_GROUP_SIZE = 64
DEFAULT_TABLE_BITS = 8

MAX_VERIFY_TOKENS = 64
"""New tokens that one run checks, at most."""

MIN_LENGTH = 8
"""Tokens that a model is made for at least."""

STOCK = ("matmulnbits", "dequantizelinear")
"""Values of `op` whose graph has no operator of ours."""

FITTED = "planes of a plain directory (a checkpoint brings its own)"
GRAPH = "graph"


@dataclass(frozen=True)
class ExportOptions:
    """Options of `exporter.export`.

    `planes`, `group_size`, `offset`, `levels`, `zero` and `rotate` are those of a fit. None means the default, and is
    all that a checkpoint of ours accepts, which carries its own. With none of the first five, or {planes} "auto", each
    weight that a form holds exactly gets the smallest such form, and the others are fitted.
    """

    planes: int | Literal["auto"] | None = option(
        None,
        help="binary planes; auto: each weight that lies on a grid of up to 256 levels is stored exactly, in the "
        "fewest bits that do it, and the others as the rest of these options say",
        minimum=OP.limits["min_planes"],
        maximum=OP.limits["max_planes"],
        shown=f"default auto, and {DEFAULT_PLANES} where any of these options is given",
        metavar="P",
        group=FITTED,
    )
    group_size: int | None = option(
        None,
        help="weights per scale",
        multiple=OP.limits["half_group"],
        shown=f"default {DEFAULT_FORM.group_size} with auto, {DEFAULT_GROUP_SIZE} where any of these options is given",
        metavar="G",
    )
    offset: bool | None = option(
        None,
        help="an offset per group",
        shown=f"default: with auto, and with {DEFAULT_PLANES} planes of free levels",
    )
    levels: str | None = option(
        None,
        help="free: every plane has scales; even: a group has one step, which is smaller and faster",
        choices=LEVELS[::2],
        shown="default even with auto or a {zero}, otherwise free",
    )
    zero: float | Literal["group"] | None = option(
        None,
        help="of even levels without an offset, the level that stands for 0, in halves of a step; group: each group "
        "has its own",
        minimum=0,
        shown="default: 8 of 4 planes, 4 of 3, 1 of 2, 0.5 of 1, and so on",
        metavar="Z",
    )
    rotate: int | None = option(
        None,
        help="fit weights in a rotated basis: a Walsh-Hadamard transform with random signs, in blocks of the largest "
        "power of two up to N that divides a layer's inputs, which a node of the graph rotates",
        minimum=2,
        maximum=HADAMARD.limits["max_block_size"],
        metavar="N",
    )
    scale_bits: int | None = option(
        None,
        help="16: float16 scales; 8: rounded to 8 bits, with a float16 factor per output and plane, for a smaller and "
        "faster file; 32: float32 scales, for weights beyond float16's range. Exact weights keep the scales they need",
        choices=(8, 16, 32),
        shown="default: as a checkpoint stores them, 8 for weights that auto does not find exact, otherwise 16",
        group=GRAPH,
    )
    layout: str = option(
        OP.layouts[0].name,
        help="byte order of planes and scales in the file: plain runs on every CPU, and stores even levels of 2, 4 or "
        "8 planes as codes, which ONNX Runtime's own operator reads where the library is absent; the others are ready "
        "for one instruction set: a device maps the file and starts at once, and other CPUs refuse it; dualbinary "
        "relayout converts between them",
        choices=tuple(layout.name for layout in OP.layouts if layout.name != CODES),
    )
    accuracy_level: int = option(
        0,
        help="what kernels may do to activations: 0 keeps 15 bits or better; 4 allows int8, which is faster",
        choices=tuple(OP.attribute("accuracy_level").values),
    )
    dtype: str | None = option(
        None,
        help="type of activations, of everything that is not quantized, and of the KV cache unless {kv_cache} has "
        "another; with {target} cuda, attention and cache are fp16 in either case",
        choices=("fp32", "fp16"),
        shown=f"default {TARGETS['cpu']}, with {{target}} cuda {TARGETS['cuda']}",
    )
    embedding_bits: int | None = option(
        None,
        help="bits of token embedding and head. A table that a checkpoint stores in planes is taken as it is, unless "
        "other bits are asked for",
        choices=(*TABLE_BITS, 16, 32),
        shown=f"default {DEFAULT_TABLE_BITS}, or as a checkpoint stores it",
    )
    logits: str = option(
        "last",
        help="last: logits [batch, 1, V] of the last token only, all that generating needs; all: of every token",
        choices=("last", "all"),
    )
    verify_tokens: int | None = option(
        None,
        help="new tokens that speculative decoding checks in one run: a second output, verify_logits, has the logits "
        "after each of them; 0: no such output",
        minimum=0,
        maximum=MAX_VERIFY_TOKENS,
        shown="default 8; 3 with {accuracy_level} 4; 0 with {target} cuda, {layout_for} or another {op}",
        metavar="N",
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
    kv_cache: str = option(
        "model",
        help="type of keys and values between steps: model: that of the activations; fp16: half of the memory of fp32; "
        "int8: a quarter, with a float32 factor for each head and token, and a small loss. Other types than that of "
        "the model need {fuse} all, on CPUs",
        choices=("model", "fp16", "int8"),
    )
    fuse: str = option(
        "all",
        help="all: the nodes of attention and feed-forward blocks become one node each, which decodes faster; none: "
        "they stay as they are. On CPUs, with {op} dualbinary",
        choices=("all", "none"),
        group=GRAPH,
    )
    op: str = option(
        "dualbinary",
        help="operator of the linear layers: dualbinary, for hosts that register the library, with a fallback function "
        "for the others; matmulnbits, ONNX Runtime's own alone, for WebGPU and other execution providers, which takes "
        "even levels; dequantizelinear, standard operators over the same codes, for WebAssembly, which unpacks them "
        "once where the session is told to",
        choices=("dualbinary", *STOCK),
    )
    fallback: str = option(
        "ort4",
        help="body of the function inside the model that runs the operator where the library is absent; ort2 takes "
        "less memory than ort4 and needs {accuracy_level} 4",
        choices=("ort4", "ort2", "standard", "none"),
    )
    layout_for: str | None = option(
        None,
        help="program that the folder is laid out for. transformersjs: transformers.js loads it as it is, with the "
        "model in onnx/ under a name of its own",
        choices=("transformersjs",),
        shown="default: onnxruntime-genai and the commands of this project",
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
        if self.rotate is not None and self.rotate & (self.rotate - 1):
            raise OptionError("rotate", "a power of two", self.rotate, "use the next smaller one")
        self._check_levels()
        self._check_layout_for()
        if self.fallback == "ort2" and self.accuracy_level == 0:
            expected = "ort4, standard or none at {accuracy_level} 0, where ONNX Runtime is slow with two bits"
            raise OptionError("fallback", expected, self.fallback, "use {fallback} ort4, or {accuracy_level} 4")
        plain = OP.layouts[0].name
        if self.op in STOCK:
            self._check_stock(plain)
            self._check_cache()
            return
        self._check_cache()
        if self.target != "cuda":
            return
        if self.layout != plain:
            expected = f"{plain} with {{target}} cuda, whose kernels pack weights themselves"
            raise OptionError("layout", expected, self.layout, "leave {layout} out, or use {target} cpu")
        if isinstance(self.planes, int) and self.planes > CUDA_PLANES:
            expected = f"1 to {CUDA_PLANES} with {{target}} cuda"
            raise OptionError("planes", expected, self.planes, "use fewer, or {target} cpu")

    @property
    def fuses(self) -> bool:
        """Whether blocks are made: no other provider, and no host without our operators, has kernels for them."""
        return self.fuse == "all" and self.target == "cpu" and self.op == "dualbinary"

    @property
    def cache_type(self) -> str:
        """Element type of keys and values: "fp32", "fp16" or "int8"."""
        if self.kv_cache != "model":
            return self.kv_cache
        return "fp16" if self.target == "cuda" else self.activations

    @property
    def converts_cache(self) -> bool:
        """Whether keys and values have another type than attention computes with."""
        return self.cache_type != ("fp16" if self.target == "cuda" else self.activations)

    def _check_cache(self) -> None:
        """Refuse a type of the cache that only blocks read."""
        if not self.converts_cache or self.fuses:
            return
        blocks = {"target": "cpu", "op": "dualbinary", "fuse": "all"}
        name, needed = next((name, value) for name, value in blocks.items() if getattr(self, name) != value)
        expected = f"model with {{{name}}} {getattr(self, name)}, as only blocks read a cache of another type"
        raise OptionError("kv_cache", expected, self.kv_cache, f"leave {{kv_cache}} out, or use {{{name}}} {needed}")

    def _check_layout_for(self) -> None:
        """Refuse what no JavaScript can run."""
        if self.layout_for is None:
            return
        if self.fallback == "none":
            expected = "ort4, ort2 or standard with {layout_for} transformersjs, which registers no library"
            raise OptionError("fallback", expected, self.fallback, "leave {fallback} out")
        if self.kv_cache == "int8":
            expected = "model or fp16 with {layout_for} transformersjs, whose ONNX Runtime 1.30 cannot read int8 rows"
            raise OptionError("kv_cache", expected, self.kv_cache, "use {kv_cache} fp16")
        if self.target != "cpu":
            expected = "cpu with {layout_for} transformersjs, whose providers take the same file"
            raise OptionError("target", expected, self.target, "leave {target} out")

    def _check_stock(self, plain: str) -> None:
        """Refuse what says nothing of a graph without our operator."""
        for name, only in (("layout", plain), ("fallback", "ort4")):
            if (value := getattr(self, name)) != only:
                expected = f"no value with {{op}} {self.op}, whose graph has neither our operator nor its fallback"
                raise OptionError(name, expected, value, f"leave {{{name}}} out, or use {{op}} dualbinary")
        if self.embedding_bits == 3:
            expected = f"2, 4, 8, 16 or 32 with {{op}} {self.op}"
            raise OptionError("embedding_bits", expected, 3, "use 4, or {op} dualbinary")
        if self.op != "dequantizelinear":
            return
        if self.accuracy_level:
            expected = "0 with {op} dequantizelinear, which computes in floats"
            raise OptionError("accuracy_level", expected, self.accuracy_level, "leave {accuracy_level} out")
        if self.target != "cpu":
            expected = "cpu with {op} dequantizelinear, which a GPU would unpack at every call"
            raise OptionError("target", expected, self.target, "use {op} matmulnbits")

    @property
    def verified_tokens(self) -> int:
        """New tokens that one run checks; 0: the last one's logits alone are known."""
        if self.verify_tokens is not None:
            return self.verify_tokens
        # transformers.js computes the logits of guesses and has no use for them.
        own = (self.target, self.op, self.layout_for) == ("cpu", "dualbinary", None)
        return ROWS_BY_LEVEL[self.accuracy_level] if own else 0

    @property
    def activations(self) -> str:
        """Element type of activations: "fp32" or "fp16"."""
        return TARGETS[self.target] if self.dtype is None else self.dtype

    @property
    def table_bits(self) -> int:
        """Bits of the tables that are made."""
        return self.embedding_bits or DEFAULT_TABLE_BITS

    @property
    def stores_codes(self) -> bool:
        """True where weights that layout codes can hold are stored in it: a fallback function reads it as it is."""
        stock_body = self.fallback in ("ort4", "ort2")
        return self.layout == OP.layouts[0].name and (self.op, self.target) == ("dualbinary", "cpu") and stock_body

    @property
    def finds_exact_forms(self) -> bool:
        """True where weights of a plain directory are stored exactly if they can be."""
        return self.planes == "auto" or self._form_options == (None,) * 5

    @property
    def fit_form(self) -> PlaneFormat:
        """The form of a data-free fit, in layout plain."""
        scales = {None: None, 8: np.uint8, 16: np.float16, 32: np.float32}[self.scale_bits]
        if self._form_options[1:] == (None,) * 4 and not isinstance(self.planes, int):
            return replace(DEFAULT_FORM, scale_dtype=np.dtype(scales or DEFAULT_FORM.scale_dtype))
        even = self._fit_levels == "even"
        offset = self.offset if self.offset is not None else not even and self._fit_planes == DEFAULT_PLANES
        return PlaneFormat(
            self._fit_planes,
            DEFAULT_GROUP_SIZE if self.group_size is None else self.group_size,
            offset,
            self._fit_levels,
            self._fit_zero if even and not offset else 0,
            np.dtype(scales or np.float16),
        )

    @property
    def _form_options(self) -> tuple[object, ...]:
        return self.planes, self.group_size, self.offset, self.levels, self.zero

    @property
    def _fit_planes(self) -> int:
        return self.planes if isinstance(self.planes, int) else DEFAULT_PLANES

    @property
    def _fit_levels(self) -> str:
        return self.levels or ("free" if self.zero is None else "even")

    @property
    def _fit_zero(self) -> float | str:
        middle = ((1 << self._fit_planes) - 1) / 2
        few = {1: middle, 2: middle - 0.5}
        return few.get(self._fit_planes, middle + 0.5) if self.zero is None else self.zero

    def _check_levels(self) -> None:
        """Raise OptionError for levels, zero, offset and group size that do not go together."""
        most, even = (1 << self._fit_planes) - 1, self._fit_levels == "even"
        if self.zero is not None and not even:
            raise OptionError(
                "zero", "no value with {levels} free", self.zero, "leave {zero} out, or use {levels} even"
            )
        if self.zero is not None and self.offset:
            expected = "no value with an {offset}, which does the work of a zero"
            raise OptionError("zero", expected, self.zero, "leave one of them out")
        if isinstance(self.zero, (int, float)) and not (self.zero <= most and float(2 * self.zero).is_integer()):
            expected = f"a multiple of 0.5 from 0 to {most}, or {EACH_GROUP}, with {self._fit_planes} planes"
            raise OptionError("zero", expected, self.zero)
        multiple = OP.limits["group_multiple"]
        if self.group_size is not None and self.group_size % multiple and (not even or self.group_size > multiple):
            expected = f"a positive multiple of {multiple}, or {OP.limits['half_group']} with {{levels}} even"
            raise OptionError("group_size", expected, self.group_size)
