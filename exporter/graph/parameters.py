"""The parameters of a graph and the stored tensors that they are made of, known from headers alone."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import torch

from dualbinary import InputError
from dualbinary.checkpoint import (
    SCALE_TYPES,
    check_modules,
    is_computed,
    load_module,
    load_order,
    load_rotation,
    order_name,
    planes_name,
    rotation_signs_name,
    scales_name,
)
from dualbinary.contract.rotation import Rotation
from dualbinary.contract.weight import PlaneFormat, PlaneWeight
from exporter.graph.build import BuiltGraph
from exporter.source.lazy_tensor import (
    RowOrigin,
    evaluate,
    lazy_tensor,
    row_origins,
    stored_name,
    stored_names,
)
from exporter.source.model_directory import ModelDirectory

__all__ = ["Parameters"]

_HEADS = ("lm_head.weight", "embed_out.weight")
_ROWS = 4096  # compared at a time


class Parameters:
    """The parameters of a graph as lazy tensors over a model directory.

    Attributes:
        modules: for a checkpoint, its Linear modules and vocabulary tables: name to (N, K, weight stored as [K, N]).
        copies: stored heads that repeat the embedding they are tied to, and are left out.
    """

    def __init__(self, source: ModelDirectory, graph: BuiltGraph) -> None:
        """Bind `graph` to `source`.

        Raises InputError where a parameter has no tensor or one of another shape, or where a stored tensor would be
        left out: a model that ignores some of its weights is another model.
        """
        self.source = source
        self.modules: dict[str, tuple[int, int, bool]] = {}
        stored: dict[str, torch.Tensor] = {name: source.lazy(name) for name in source.tensors}
        if source.quantization is not None:
            linears, tables = source.transformers.linears(), source.transformers.tables()
            sizes = {module: (N, K) for module, (N, K, _) in linears.items()}
            check_modules(source.quantization, source.tensors, sizes, tables)
            self.modules = linears | {module: (*size, False) for module, size in tables.items()}
            stored = self._with_weights_in_place_of_planes(stored)
        named = self._with_prefix(stored)
        mapped = self._mapped(graph, dict(named))
        self._parameters: dict[str, torch.Tensor] = {}
        for name, value in graph.parameters().items():
            self._parameters[name] = self._checked(name, value, mapped, named)
        used = {name for tensor in self._parameters.values() for name in stored_names(tensor)}
        self.copies = self._copies_of_tied(stored, used)
        self._refuse_leftovers({name: stored[name] for name in stored.keys() - used - self.copies})

    def __getitem__(self, parameter: str) -> torch.Tensor:
        """The lazy tensor of `parameter`."""
        return self._parameters[parameter]

    def read(self, parameter: str, dtype: torch.dtype) -> torch.Tensor:
        """The parameter's values in `dtype`."""
        return evaluate(self._parameters[parameter], self.source.read).to(dtype).contiguous()

    def read_rows(self, parameter: str, step: int, dtype: torch.dtype) -> Iterator[torch.Tensor]:
        """The parameter's rows in `dtype`, `step` at a time; those that planes stand for where it is stored so.

        Rows whose inputs are rotated come as they are stored.
        """
        if self.has_planes(parameter):
            weight = self.stored_weight(parameter)
            for begin in range(0, weight.N, step):
                yield torch.from_numpy(weight.rows(slice(begin, begin + step)).dequantize()).to(dtype)
            return
        tensor = self._parameters[parameter]
        stored = stored_name(tensor)
        parts = self.source.read_rows(stored, step) if stored else evaluate(tensor, self.source.read).split(step)
        for rows in parts:
            yield rows.to(dtype)

    def same(self, first: str, second: str) -> bool:
        """Tell if two parameters are one stored tensor (tied embeddings)."""
        a, b = self._parameters[first], self._parameters[second]
        return a is b or (stored_name(a) is not None and stored_name(a) == stored_name(b))

    def unique(self) -> list[torch.Tensor]:
        """The lazy tensors of all parameters, tied ones once."""
        found: dict[str, torch.Tensor] = {}
        for name, tensor in self._parameters.items():
            found.setdefault(stored_name(tensor) or name, tensor)
        return list(found.values())

    def origins(self, parameter: str) -> list[RowOrigin]:
        """The stored rows that `parameter` consists of."""
        return row_origins(self._parameters[parameter], parameter)

    def has_planes(self, parameter: str) -> bool:
        """Tell if the checkpoint stores planes for `parameter`, all of it."""
        names = stored_names(self._parameters[parameter])
        quantized = [name for name in names if name not in self.source.tensors]
        if quantized and len(quantized) != len(names):
            raise InputError(f"{parameter}: joins the quantized {quantized[0]} with a full-precision tensor")
        return bool(quantized)

    def stored_format(self, parameter: str) -> PlaneFormat:
        """The form of the planes that the checkpoint has for `parameter`.

        Where it joins modules, scales of several types become float32, which holds them all, and every output has its
        own. Raises InputError where the modules have different forms.
        """
        config = self.source.quantization
        assert config is not None
        origins = self.origins(parameter)
        modules = list(dict.fromkeys(origin.name.removesuffix(".weight") for origin in origins))
        form = config.format_of(modules[0])
        for module in modules:
            if config.format_of(module) != form:
                raise InputError(
                    f"{parameter}: joins {modules[0]} and {module}, to which the overrides of quantization_config give "
                    "different formats; give them the same"
                )
        types = {SCALE_TYPES[self.source.tensors[scales_name(module)].dtype] for module in modules}
        dtype = types.pop() if len(types) == 1 else np.dtype(np.float32)
        return replace(form, scale_dtype=dtype, per_tensor=form.per_tensor and len(origins) == 1)

    def input_order(self, parameter: str) -> np.ndarray | None:
        """The order of the inputs of `parameter`, int32 [K]: column k of its planes multiplies X[.., order[k]].

        None where it is that of X. Raises InputError where the modules that it joins have different ones.
        """
        modules = dict.fromkeys(origin.name.removesuffix(".weight") for origin in self.origins(parameter))
        first, *others = (load_order(self.source.tensors, module) for module in modules)
        if any(not np.array_equal(_or_empty(first), _or_empty(other)) for other in others):
            raise InputError(f"{parameter}: joins {', '.join(modules)}, which have their inputs in different orders")
        return first

    def rotation(self, parameter: str) -> Rotation | None:
        """The rotation of the inputs of `parameter`; None where its planes multiply X, and where it has no planes.

        Raises InputError where the modules that it joins have different ones.
        """
        config = self.source.quantization
        if config is None or not self.has_planes(parameter):
            return None
        modules = dict.fromkeys(origin.name.removesuffix(".weight") for origin in self.origins(parameter))
        first, *others = (load_rotation(config, self.source.tensors, module) for module in modules)
        if any(other != first for other in others):
            raise InputError(f"{parameter}: joins {', '.join(modules)}, whose inputs are rotated in different ways")
        return first

    def stored_weight(self, parameter: str) -> PlaneWeight:
        """The planes that the checkpoint has for `parameter`, in layout plain, rows in the order of the graph."""
        config = self.source.quantization
        assert config is not None
        parts = []
        for origin in self.origins(parameter):
            module = origin.name.removesuffix(".weight")
            N, K, _ = self.modules[module]
            whole = load_module(self.source.tensors, module, N, K, config.format_of(module))
            parts.append(whole.rows(origin.rows.numpy()))
        return PlaneWeight.concatenate(parts)

    def _mapped(self, graph: BuiltGraph, stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The builder's parameters, made of `stored`. Raises InputError where they do not fit its code."""
        try:
            return graph.map_weights(stored)
        except InputError:
            raise
        except Exception as error:  # the builder's code asks for names and shapes without checking them
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise InputError(self._misfit(stored) or f"{self._unsupported} ({reason})") from error

    def _with_prefix(self, stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """`stored` by the names of a causal language model, where the file was saved from the decoder alone."""
        prefix = self.source.transformers.base_prefix
        if any(name.startswith(prefix) for name in stored):
            return dict(stored)
        names = self.source.transformers.shapes()
        parts = {name.split(".")[1] for name in names if name.startswith(prefix)}  # of the decoder; the head is beside

        def full(name: str) -> str:
            return prefix + name if name not in names and name.split(".")[0] in parts else name

        return {full(name): tensor for name, tensor in stored.items()}

    def _misfit(self, stored: Mapping[str, torch.Tensor]) -> str | None:
        """A sentence on the first tensor of another shape than transformers expects, None where all fit."""
        for name, shape in self.source.transformers.shapes().items():
            tensor = stored.get(name)
            if tensor is not None and tuple(tensor.shape) != shape:
                origin = stored_name(tensor) or name
                return f"{origin}: config.json asks for shape {list(shape)}, the file has {list(tensor.shape)}"
        return None

    @property
    def _unsupported(self) -> str:
        kind = self.source.model_type
        return f"{self.source.directory}: a {kind} of this configuration is not supported by the graph builder"

    def _with_weights_in_place_of_planes(self, stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The stored tensors, with `<module>.weight` in place of planes: the builder knows weights alone."""
        result = dict(stored)
        for module, (N, K, transposed) in self.modules.items():
            if planes_name(module) in result:
                del result[planes_name(module)], result[scales_name(module)]
                result.pop(order_name(module), None)
                result.pop(rotation_signs_name(module), None)
                shape = (K, N) if transposed else (N, K)
                result[f"{module}.weight"] = lazy_tensor(f"{module}.weight", shape, torch.float32)
        return result

    def _checked(
        self, name: str, value: ir.Value, mapped: Mapping[str, torch.Tensor], stored: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        tensor = mapped.get(name)
        if tensor is None:
            raise InputError(
                f"{self.source.directory}: no tensor for {name}; the safetensors files are incomplete, "
                f"or a {self.source.model_type} of this configuration is not supported"
            )
        if not tensor.dtype.is_floating_point:
            raise InputError(f"{name}: expected a floating-point tensor, the file has {tensor.dtype}")
        expected = list(value.shape.numpy()) if value.shape is not None else []
        if list(tensor.shape) != expected:
            origin = ", ".join(sorted(stored_names(tensor))) or name
            raise InputError(
                self._misfit(stored)
                or f"{self._unsupported}: its graph asks for {name} of shape {expected}, {origin} gives "
                f"{list(tensor.shape)}"
            )
        return tensor

    def _refuse_leftovers(self, tensors: Mapping[str, torch.Tensor]) -> None:
        ignores = self.source.transformers.ignores
        unused = sorted(name for name, it in tensors.items() if not is_computed(name, it.shape) and not ignores(name))
        if unused:
            raise InputError(
                f"{self.source.directory}: {unused[0]} has no place in the graph of a {self.source.model_type} "
                f"({len(unused)} such tensors); this variant of the architecture is not supported"
            )

    def _copies_of_tied(self, stored: Mapping[str, torch.Tensor], used: set[str]) -> set[str]:
        """Heads that config.json ties to the embedding and the file stores again, which must be equal to it."""
        heads = [name for name in stored if name.endswith(_HEADS) and name not in used]
        if not heads or not self.source.transformers.ties:
            return set()
        for embedding in used:
            if embedding in self.source.tensors and stored[embedding].shape == stored[heads[0]].shape:
                pairs = zip(
                    self.source.read_rows(heads[0], _ROWS), self.source.read_rows(embedding, _ROWS), strict=True
                )
                if all(torch.equal(a, b) for a, b in pairs):
                    return set(heads)
        raise InputError(
            f"{heads[0]}: config.json ties it to the embedding, but the file holds another tensor; "
            "set tie_word_embeddings to false if the head is meant to differ"
        )


def _or_empty(order: np.ndarray | None) -> np.ndarray:
    return np.empty(0, np.int32) if order is None else order
