"""`--check`: the exported file in ONNX Runtime against PyTorch with the very weights that the file holds.

Planes, scales and tables are read back from out.onnx, dequantized and put in the place of the weights that they came
from, in a full-precision copy of the model directory. What is left to differ is the graph and the arithmetic.
"""

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from safetensors.torch import save_file

from dualbinary import OP, DualBinaryError
from dualbinary.checkpoint import INDEX_FILE
from dualbinary.contract.weight import PlaneWeight
from exporter.graph.passes.linear import PlaneNode
from exporter.graph.passes.vocabulary import Table
from exporter.pipeline import Export
from exporter.source.lazy_tensor import RowOrigin
from exporter.source.model_directory import ModelSource
from exporter.stored.vocabulary_tables import dequantized_table

__all__ = ["CheckResult", "check"]

_PROMPT = (
    "The lighthouse keeper counted the ships each evening and wrote their names in a long gray book. "
    "One night he saw a light where no ship could be, and in the morning the page for that day was already full."
)
_PROMPT_TOKENS = 32
_DECODE_TOKENS = 8
_ROWS = 512  # dequantized at a time
_SHARD_BYTES = 1 << 30
_CUDA = "CUDAExecutionProvider"

# Largest relative error of the logits that the arithmetic explains, with room for models that amplify it. Level 0 may
# lose 1e-4 in a product (the contract's 15 bits), which adds up like the square root of the number of products: 1.5e-3
# for the 210 of a model of 30 layers. float16 activations carry 5e-4 a step; level 4 rounds activations to 8 bits, 6e-3
# a product.
_TOLERANCE = {("fp32", 0): 4e-3, ("fp16", 0): 1e-2, ("fp32", 4): 1.5e-1, ("fp16", 4): 1.5e-1}


@dataclass(frozen=True)
class CheckResult:
    """How far ONNX Runtime and PyTorch are apart on one prompt, over the positions of which the file gives logits.

    relative_error: largest |logit - reference| over largest |reference|.
    kl: mean over positions of KL(reference || exported), in nats.
    top1: share of positions with the same most likely token.
    tolerance: what relative_error may be.
    kernel: "library" or "fallback", whatever computed DualBinaryMatMul.
    provider: execution provider that ran the file, "cpu" or "cuda". A model for CUDA runs on the CPU where ONNX Runtime
        has no CUDA, which checks the graph but none of CUDA's kernels.
    """

    relative_error: float
    kl: float
    top1: float
    tolerance: float
    tokens: int
    kernel: str
    provider: str

    @property
    def passed(self) -> bool:
        """Whether the two agree."""
        return self.relative_error <= self.tolerance  # false for NaN

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "passed": self.passed}


def check(result: Export, out: Path, library: Path | None) -> CheckResult:
    """Compare the exported model at `out` with PyTorch. `library` is None where only the fallback function can run."""
    source = result.weights.source
    with tempfile.TemporaryDirectory(prefix=".dualbinary-check-", dir=out.parent) as scratch:
        _write_dequantized(result, out, Path(scratch))
        ids = _token_ids(source)
        reference = _torch_logits(Path(scratch), ids)
    session = _session(out, library, result.options.target)
    logits = _onnx_logits(session, ids)
    reference = reference[-len(logits) :]
    kernel = "library" if library is not None else "fallback"
    return _compare(logits, reference, result, kernel, "cuda" if _CUDA in session.get_providers() else "cpu")


def _compare(logits: np.ndarray, reference: np.ndarray, result: Export, kernel: str, provider: str) -> CheckResult:
    error = float(np.abs(logits - reference).max() / np.abs(reference).max())  # NaN where either holds one
    expected, got = (torch.from_numpy(x).double().log_softmax(-1) for x in (reference, logits))
    kl = (expected.exp() * (expected - got)).sum(-1).mean().item()
    top1 = float((logits.argmax(1) == reference.argmax(1)).mean())
    # For CUDA attention is float16 whatever the rest is.
    dtype = "fp16" if result.options.target == "cuda" else result.options.activations
    tolerance = _TOLERANCE[dtype, result.options.accuracy_level]
    return CheckResult(error, kl, top1, tolerance, len(logits), kernel, provider)


def _token_ids(source: ModelSource) -> np.ndarray:
    """Token ids [1, tokens] of a fixed text, or fixed ids where the directory has no tokenizer."""
    count = _PROMPT_TOKENS + _DECODE_TOKENS
    if (source.directory / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        try:
            ids = Tokenizer.from_file(str(source.directory / "tokenizer.json")).encode(_PROMPT).ids
        except Exception as error:  # the library raises bare exceptions
            raise DualBinaryError(f"{source.directory / 'tokenizer.json'}: cannot be read ({error})") from error
        ids = (ids * count)[:count]
    else:
        rng = np.random.default_rng(0)
        ids = rng.integers(4, source.config["vocab_size"], count).tolist()
    return np.array([ids], np.int64)


def _torch_logits(directory: Path, ids: np.ndarray) -> np.ndarray:
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False, local_files_only=True
    )
    with torch.inference_mode():
        return model.eval()(torch.from_numpy(ids)).logits[0].float().numpy()


def _session(out: Path, library: Path | None, target: str) -> ort.InferenceSession:
    """The file on the provider it was made for, where this ONNX Runtime has it, else on the CPU."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if library is not None:
        options.register_custom_ops_library(str(library))
    providers: list[Any] = ["CPUExecutionProvider"]
    if target == "cuda" and _CUDA in ort.get_available_providers():
        providers.insert(0, (_CUDA, {"use_tf32": "0"}))
    try:
        return ort.InferenceSession(str(out), options, providers=providers)
    except Exception as error:  # ONNX Runtime's own exceptions share no narrower base
        raise DualBinaryError(f"{out}: ONNX Runtime cannot load it for --check: {error}") from error


def _onnx_logits(session: ort.InferenceSession, ids: np.ndarray) -> np.ndarray:
    """Logits [tokens, V]: the prompt at once, then token by token through the KV cache.

    Of a prompt the file gives all rows or the last one.
    """
    inputs = {value.name: value for value in session.get_inputs()}
    past = {}
    for name, value in inputs.items():
        if name.startswith("past_key_values."):
            dtype = np.float16 if value.type == "tensor(float16)" else np.float32
            past[name] = np.zeros((1, value.shape[1], 0, value.shape[3]), dtype)
    names = [value.name for value in session.get_outputs()]
    rows = []
    steps = [_PROMPT_TOKENS, *[1] * (ids.shape[1] - _PROMPT_TOKENS)]
    begin = 0
    for step in steps:
        end = begin + step
        feeds = {"input_ids": ids[:, begin:end], "attention_mask": np.ones((1, end), np.int64)}
        if "position_ids" in inputs:
            feeds["position_ids"] = np.arange(begin, end, dtype=np.int64)[None]
        outputs = dict(zip(names, session.run(None, {**feeds, **past}), strict=True))
        rows.append(np.asarray(outputs["logits"])[0].astype(np.float32))
        past = {name: outputs[name.replace("past_key_values", "present")] for name in past}
        begin = end
    return np.concatenate(rows)


@dataclass(frozen=True)
class _Rows:
    """Rows of a stored tensor that the export quantized, and how to get what the file holds in their place."""

    origin: RowOrigin
    read: Callable[[], np.ndarray]  # float32 [rows, K]


def _write_dequantized(result: Export, out: Path, directory: Path) -> None:
    """A full-precision model directory with the weights that `out` stands for."""
    source = result.weights.source
    config = {key: value for key, value in source.config.items() if key != "quantization_config"}
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    replaced = _replaced_rows(result, out)
    quantized = (".planes", ".scales") if source.quantization is not None else ()
    copies = result.weights.copies  # of a tied embedding: what is left of them would untie it
    names = [name for name in source.tensors if not (quantized and name.endswith(quantized)) and name not in copies]
    names += [name for name in replaced if name not in source.tensors]
    weight_map: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    for index, name in enumerate(names):
        shard[name] = _dequantized(result, name, replaced.get(name, []))
        if sum(tensor.nbytes for tensor in shard.values()) > _SHARD_BYTES or index == len(names) - 1:
            file = f"model-{index:05d}.safetensors"
            save_file(shard, directory / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(shard, file)
            shard = {}
    index_file = {"metadata": {}, "weight_map": weight_map}
    (directory / INDEX_FILE).write_text(json.dumps(index_file), encoding="utf-8")


def _replaced_rows(result: Export, out: Path) -> dict[str, list[_Rows]]:
    """The quantized rows of every stored tensor, by its name."""
    stored = ir.load(out).graph.initializers
    replaced: dict[str, list[_Rows]] = defaultdict(list)

    def add(parameter: str, read: Callable[[slice], np.ndarray]) -> None:
        begin = 0
        for origin in result.weights.origin(parameter):
            rows = slice(begin, begin + len(origin.rows))
            replaced[origin.name].append(_Rows(origin, partial(read, rows)))
            begin = rows.stop

    for node in result.nodes:
        begin = 0
        for linear in node.linears:
            first = begin  # of the layer's rows among the node's
            arrays = (stored[str(node.planes.name)], stored[str(node.scales.name)])
            add(linear.parameter, partial(_linear_rows, node, arrays, first))
            begin += linear.N
    for table in result.tables:
        values = [stored[str(v.name)] for v in (*table.codes, *([table.scales] if table.scales is not None else []))]
        add(table.parameter, partial(_table_rows, table, values))
    return replaced


def _linear_rows(node: PlaneNode, values: tuple[ir.Value, ir.Value], first: int, rows: slice) -> np.ndarray:
    stored = PlaneWeight(_array(values[0]), _array(values[1]), node.linears[0].K, node.format)
    plain = stored.to_layout(OP.layouts[0].name)
    parts = []
    for begin in range(first + rows.start, first + rows.stop, _ROWS):
        part = slice(begin, min(begin + _ROWS, first + rows.stop))
        parts.append(plain.rows(part).dequantize().astype(np.float32))
    return np.concatenate(parts)


def _table_rows(table: Table, values: list[ir.Value], rows: slice) -> np.ndarray:
    return dequantized_table(table, [_array(value)[rows] for value in values])


def _array(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return value.const_value.numpy()


def _dequantized(result: Export, name: str, replacements: list[_Rows]) -> torch.Tensor:
    weights = result.weights
    if name in weights.source.tensors:
        tensor = weights.source.read(name)
        if not replacements:
            return tensor
        tensor = tensor.float()
    else:
        n, k, transposed = weights.linears[name.removesuffix(".weight")]
        tensor = torch.zeros((k, n) if transposed else (n, k))
    for rows in replacements:
        values = torch.from_numpy(rows.read())
        target = tensor.T if rows.origin.transposed else tensor
        target[rows.origin.rows] = values
    return tensor
