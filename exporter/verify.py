"""The check of an export: the file in ONNX Runtime against PyTorch with the weights that the file holds.

Planes, scales and tables are read from the file, dequantized and put in the place of the weights that they stand for,
in a full-precision copy of the model directory. So only the graph and the arithmetic can differ.
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
from dualbinary.checkpoint import CONFIG_FILE, INDEX_FILE
from dualbinary.contract.weight import PlaneWeight
from dualbinary.files.model_files import TOKENIZER
from exporter.graph.export_graph import PlaneNode, VocabularyTable
from exporter.pipeline import ExportResult
from exporter.source.lazy_tensor import RowOrigin
from exporter.source.model_directory import ModelDirectory
from exporter.stored.vocabulary_tables import dequantize_table

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

# Rows of a stored tensor that the export quantized, and a function that dequantizes them as the file has them, float32
# [rows, K].
_Rows = tuple[RowOrigin, Callable[[], np.ndarray]]

# Largest relative error of the logits that the arithmetic explains, with room for models that amplify it, by type of
# the activations and accuracy level. Level 0 may lose 1e-4 in a product (the contract's 15 bits), which adds up like
# the square root of the number of products: 1.5e-3 for the 210 of a model of 30 layers. float16 activations lose 5e-4
# per step; level 4 rounds activations to 8 bits, 6e-3 per product.
_TOLERANCES = {("fp32", 0): 4e-3, ("fp16", 0): 1e-2, ("fp32", 4): 1.5e-1, ("fp16", 4): 1.5e-1}


@dataclass(frozen=True)
class CheckResult:
    """The distance of ONNX Runtime and PyTorch on one prompt, over the positions of which the file gives logits.

    Attributes:
        relative_error: largest |logit - reference| over largest |reference|.
        kl: mean over positions of KL(reference || exported), in nats.
        top1: share of positions with the same most likely token.
        tolerance: largest relative_error that passes.
        tokens: number of positions.
        kernel: "library" or "fallback", which computed DualBinaryMatMul.
        provider: execution provider that ran the file, "cpu" or "cuda". A model for CUDA runs on the CPU where ONNX
            Runtime has no CUDA, which checks the graph but none of CUDA's kernels.
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
        """True where the two agree."""
        return self.relative_error <= self.tolerance  # false for NaN

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "passed": self.passed}


def check(result: ExportResult, out: Path, library: Path | None) -> CheckResult:
    """Compare the exported model at `out` with PyTorch. `library` is None where only the fallback function can run."""
    source = result.parameters.source
    with tempfile.TemporaryDirectory(prefix=".dualbinary-check-", dir=out.parent) as scratch:
        _write_dequantized(result, out, Path(scratch))
        ids = _token_ids(source)
        reference = _torch_logits(Path(scratch), ids)
    session = _session(out, library, result.options.target)
    logits = _onnx_logits(session, ids)
    reference = reference[-len(logits) :]
    error = float(np.abs(logits - reference).max() / np.abs(reference).max())  # NaN where either holds one
    expected, got = (torch.from_numpy(x).double().log_softmax(-1) for x in (reference, logits))
    kl = (expected.exp() * (expected - got)).sum(-1).mean().item()
    top1 = float((logits.argmax(1) == reference.argmax(1)).mean())
    # For CUDA attention is float16 whatever the rest is.
    dtype = "fp16" if result.options.target == "cuda" else result.options.activations
    tolerance = _TOLERANCES[dtype, result.options.accuracy_level]
    kernel = "library" if library is not None else "fallback"
    provider = "cuda" if _CUDA in session.get_providers() else "cpu"
    return CheckResult(error, kl, top1, tolerance, len(logits), kernel, provider)


def _token_ids(source: ModelDirectory) -> np.ndarray:
    """Token ids [1, tokens] of a fixed text, or fixed ids where the directory has no tokenizer."""
    count = _PROMPT_TOKENS + _DECODE_TOKENS
    path = source.directory / TOKENIZER
    if path.is_file():
        from tokenizers import Tokenizer

        try:
            ids = Tokenizer.from_file(str(path)).encode(_PROMPT).ids
        except Exception as error:  # the library raises bare exceptions
            raise DualBinaryError(f"{path}: cannot be read ({error})") from error
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
    """A session of the file on the provider that it was made for, where ONNX Runtime has that here, else on the CPU."""
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
    """Logits [tokens, V]: the prompt at once (all its tokens or the last, as the file gives them), then one by one."""
    inputs = {value.name: value for value in session.get_inputs()}
    past = {}
    for name, value in inputs.items():
        if name.startswith("past_key_values."):
            dtype = np.float16 if value.type == "tensor(float16)" else np.float32
            past[name] = np.zeros((1, value.shape[1], 0, value.shape[3]), dtype)
    names = [value.name for value in session.get_outputs()]
    rows = []
    begin = 0
    for end in range(_PROMPT_TOKENS, ids.shape[1] + 1):
        feeds = {"input_ids": ids[:, begin:end], "attention_mask": np.ones((1, end), np.int64)}
        if "position_ids" in inputs:
            feeds["position_ids"] = np.arange(begin, end, dtype=np.int64)[None]
        outputs = dict(zip(names, session.run(None, {**feeds, **past}), strict=True))
        rows.append(np.asarray(outputs["logits"])[0].astype(np.float32))
        past = {name: outputs[name.replace("past_key_values", "present")] for name in past}
        begin = end
    return np.concatenate(rows)


def _write_dequantized(result: ExportResult, out: Path, directory: Path) -> None:
    """Write a full-precision model directory with the weights that `out` stands for."""
    source, copies = result.parameters.source, result.parameters.copies
    config = {key: value for key, value in source.config.items() if key != "quantization_config"}
    (directory / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
    replaced = _replaced_rows(result, out)
    quantized = (".planes", ".scales") if source.quantization is not None else ()
    # Copies of a tied embedding stay out, as they would untie it.
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


def _replaced_rows(result: ExportResult, out: Path) -> dict[str, list[_Rows]]:
    """The quantized rows of every stored tensor, by its name."""
    stored = ir.load(out).graph.initializers
    replaced: dict[str, list[_Rows]] = defaultdict(list)

    def add(parameter: str, read: Callable[[slice], np.ndarray]) -> None:
        begin = 0
        for origin in result.parameters.origins(parameter):
            rows = slice(begin, begin + len(origin.rows))
            replaced[origin.name].append((origin, partial(read, rows)))
            begin = rows.stop

    for node in result.graph.nodes:
        begin = 0
        for linear in node.linears:
            values = (stored[str(node.planes.name)], stored[str(node.scales.name)])
            add(linear.parameter, partial(_linear_rows, node, values, begin))
            begin += linear.N
    for table in result.graph.tables:
        add(table.parameter, partial(_table_rows, table, [stored[str(value.name)] for value in table.values]))
    return replaced


def _linear_rows(node: PlaneNode, values: tuple[ir.Value, ir.Value], first: int, rows: slice) -> np.ndarray:
    """Rows of the layer that begins at row `first` of the node."""
    stored = PlaneWeight(_array(values[0]), _array(values[1]), node.linears[0].K, node.plane_format)
    weight = stored.to_layout(OP.layouts[0].name).rows(slice(first + rows.start, first + rows.stop))
    parts = (weight.rows(slice(begin, begin + _ROWS)) for begin in range(0, weight.N, _ROWS))
    return np.concatenate([part.dequantize().astype(np.float32) for part in parts])


def _table_rows(table: VocabularyTable, values: list[ir.Value], rows: slice) -> np.ndarray:
    return dequantize_table(table, [_array(value)[rows] for value in values])


def _array(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return value.const_value.numpy()


def _dequantized(result: ExportResult, name: str, replacements: list[_Rows]) -> torch.Tensor:
    parameters = result.parameters
    if name in parameters.source.tensors:
        tensor = parameters.source.read(name)
        if not replacements:
            return tensor
        tensor = tensor.float()
    else:
        N, K, transposed = parameters.linears[name.removesuffix(".weight")]
        tensor = torch.zeros((K, N) if transposed else (N, K))
    for origin, read in replacements:
        origin.matrix_of(tensor)[origin.rows] = torch.from_numpy(read())
    return tensor
