"""The facts of an exported ONNX file: what is in it, and the files beside it."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from onnx import TensorProto, helper, numpy_helper

from dualbinary.contract.schema import OP
from dualbinary.contract.weight import PlaneWeight
from dualbinary.files.cache_names import present_name
from dualbinary.files.json_objects import read_json_object
from dualbinary.files.model_files import CONFIG_FILE, GENAI_CONFIG
from dualbinary.metrics.formats import format_words
from dualbinary.onnx_files.blocks import unfuse_blocks
from dualbinary.onnx_files.relayout.model import StoredWeight, load_model, weights_of
from importer.inspect.facts import Layer, ModelFacts, Others, counts_of

__all__ = ["export_facts"]

_PLAIN = OP.layouts[0].name
_PLANES = ".planes"
_FIRST_TENSOR = {"MatMulNBits": 1, "DequantizeLinear": 0}  # the input that is codes; scales and zero points follow
_FEW_BITS: dict[int, int] = {TensorProto.UINT2: 2, TensorProto.INT2: 2, TensorProto.UINT4: 4, TensorProto.INT4: 4}


def export_facts(path: Path, *, read: bool) -> ModelFacts:
    """The facts of the file `path`; with `read` also what planes hold, for which all of them are read.

    Raises InputError where it is no ONNX model, or a node of ours in it is wrong.
    """
    model = load_model(path)
    facts = {
        "operators": _operators(model),
        "opsets": {_domain(each.domain): each.version for each in model.opset_import},
        "inputs and outputs": _values(model.graph),
        "cache": _cache(model.graph, path.parent),
        "functions": {f"{_domain(each.domain)}::{each.name}": f"{len(each.node)} nodes" for each in model.functions},
        "metadata": {each.key: _short(each.value) for each in model.metadata_props}
        | {"producer": f"{model.producer_name} {model.producer_version}".strip(), "IR version": model.ir_version},
    }
    unfuse_blocks(model)
    weights = weights_of(model)
    stock, stock_names = _stock_layers(model.graph)
    named = {tensor.name for weight in weights for tensor in (weight.planes, weight.scales)} | stock_names
    layers = [*(_layer(weight, path.parent, read) for weight in weights), *stock]
    config = path.parent / CONFIG_FILE
    return ModelFacts(
        str(path),
        "export",
        str(read_json_object(config).get("model_type", "")) if config.is_file() else "",
        tuple(layers),
        _others(_remaining(model.graph, named)),
        {file.name: file.stat().st_size for file in sorted(path.parent.glob(f"{path.name}*")) if file.is_file()},
        {title: values for title, values in facts.items() if values},
    )


def _layer(weight: StoredWeight, directory: Path, read: bool) -> Layer:
    form = weight.plane_format
    size = sum(_bytes(tensor) for tensor in (weight.planes, weight.scales))
    words = format_words(form) + ("" if weight.layout == _PLAIN else f", layout {weight.layout}")
    plain: PlaneWeight | None = weight.read(directory).to_layout(_PLAIN) if read else None
    name = weight.planes.name.removesuffix(_PLANES)
    return Layer(name, weight.N, weight.K, words, 8 * size / (weight.N * weight.K), size, **counts_of(plain))


def _stock_layers(graph: onnx.GraphProto) -> tuple[list[Layer], set[str]]:
    """Weights of few bits of other operators, as exports with another --op than ours have them, and their tensors."""
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    readers = {name: node for node in graph.node for name in node.input}
    layers, names = [], set()
    for node in graph.node:
        if node.op_type not in _FIRST_TENSOR:
            continue
        first = _FIRST_TENSOR[node.op_type]
        stored = [_stored_name(name, producers) for name in node.input[first : first + 3]]
        if not stored or stored[0] not in initializers or stored[0] in names:
            continue
        values, codes = {each.name: each.i for each in node.attribute}, initializers[stored[0]]
        bits, N, K = values.get("bits", 4), values.get("N", 0), values.get("K", 0)
        if node.op_type == "DequantizeLinear":
            bits, (N, K) = _bits(codes), codes.dims if len(codes.dims) == 2 else (0, 0)
            K -= _lack(readers.get(node.output[0]), producers)
        if min(N, K, values.get("block_size", 0)) < 1:
            continue  # no weight of a product in blocks
        own = [initializers[name] for name in dict.fromkeys(stored) if name in initializers and name not in names]
        names |= {tensor.name for tensor in own}
        size, count = sum(map(_bytes, own)), N * K
        words = f"{node.op_type}, {bits} bits, blocks of {values['block_size']}"
        layers.append(Layer(node.name.removesuffix(".dequantize"), N, K, words, 8 * size / count, size))
    return layers, names


def _stored_name(name: str, producers: dict[str, onnx.NodeProto]) -> str:
    """The tensor that `name` is in another type or shape, as scales are that several operators read."""
    for kind in ("Reshape", "Cast"):  # in the order in which a node finds them
        node = producers.get(name)
        if node is not None and node.op_type == kind and node.input:
            name = node.input[0]
    return name


def _lack(product: onnx.NodeProto | None, producers: dict[str, onnx.NodeProto]) -> int:
    """The inputs by which the last block of a weight is longer than the rows that `product` is given."""
    pad = producers.get(product.input[0]) if product is not None else None
    if pad is None or pad.op_type != "Pad" or len(pad.input) < 2 or pad.input[1] not in producers:
        return 0
    constants = [each.t for each in producers[pad.input[1]].attribute if each.HasField("t")]
    ends = [
        int(end)
        for each in constants
        if each.data_type == TensorProto.INT64
        for end in numpy_helper.to_array(each).flat
    ]
    return ends[-1] if ends else 0


def _remaining(graph: onnx.GraphProto, named: set[str]) -> Iterator[TensorProto]:
    """The tensors that are not `named`. What is declared more than once over the same bytes counts once."""
    tensors = [(tensor, _place(tensor)) for tensor in graph.initializer]
    seen = {place for tensor, place in tensors if tensor.name in named}
    for tensor, place in tensors:
        if tensor.name not in named and (place is None or place not in seen):
            seen.add(place)
            yield tensor


def _place(tensor: TensorProto) -> tuple[str, int] | None:
    """File and offset of a tensor that lies outside of the model."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return None
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return entries.get("location", ""), int(entries.get("offset", 0))


def _others(tensors: Iterable[TensorProto]) -> tuple[Others, ...]:
    counts: dict[str, list[int]] = {}
    for tensor in tensors:
        entry = counts.setdefault(_type(tensor.data_type), [0, 0, 0])
        for place, value in enumerate((1, math.prod(tensor.dims), _bytes(tensor))):
            entry[place] += value
    return tuple(sorted((Others(kind, *entry) for kind, entry in counts.items()), key=lambda each: -each.bytes))


def _bytes(tensor: TensorProto) -> int:
    return -(-math.prod(tensor.dims) * _bits(tensor) // 8)


def _bits(tensor: TensorProto) -> int:
    """Bits of a value, of which a byte holds several."""
    return _FEW_BITS.get(tensor.data_type) or 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _type(number: int) -> str:
    return TensorProto.DataType.Name(number).lower()


def _domain(domain: str) -> str:
    return domain or "ai.onnx"


def _operators(model: onnx.ModelProto) -> dict[str, int]:
    """How many nodes of each operator, the most frequent first."""
    counts = Counter(f"{_domain(node.domain)}::{node.op_type}" for node in model.graph.node)
    return dict(counts.most_common())


def _values(graph: onnx.GraphProto) -> dict[str, str]:
    """Inputs and outputs that are not the cache's."""
    inputs = {value.name: value for value in graph.input if present_name(value.name) is None}
    presents = {present_name(value.name) for value in graph.input}
    outputs = {value.name: value for value in graph.output if value.name not in presents}
    return {name: _shape(value) for name, value in (inputs | outputs).items()}


def _cache(graph: onnx.GraphProto, directory: Path) -> dict[str, str]:
    """What is carried from step to step, tensors of one shape together."""
    counts = Counter(
        (value.name.rpartition(".")[2], _shape(value)) for value in graph.input if present_name(value.name) is not None
    )
    found = {f"{kind} {shape}": f"{count} layers" for (kind, shape), count in counts.items()}
    genai = directory / GENAI_CONFIG
    if found and genai.is_file():
        values = read_json_object(genai)
        model, search = (values.get(key) if isinstance(values.get(key), dict) else {} for key in ("model", "search"))
        found["context"] = f"{(model or {}).get('context_length', 'not stated')} tokens"
        shared = bool((search or {}).get("past_present_share_buffer"))
        found["buffers"] = "one for past and present" if shared else "grow from step to step"
    return found


def _shape(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    dims = [str(each.dim_value) if each.HasField("dim_value") else each.dim_param or "?" for each in tensor.shape.dim]
    return f"{_type(tensor.elem_type)} [{', '.join(dims)}]"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 100 else f"{line[:99]}…"
