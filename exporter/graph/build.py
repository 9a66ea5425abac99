"""The graph of a model directory, without weights: mobius-onnx builds it, our adjustments correct it.

The builder constructs the ONNX graph from onnxscript modules and never traces PyTorch, so this takes a second and no
weights whatever the model's size. It builds the portable form (standard Attention, RotaryEmbedding, fused norms), which
our passes turn into the operators that the runtime is fast at.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from dualbinary import InputError
from dualbinary.checkpoint import CONFIG_FILE
from dualbinary.files.model_files import LONG_ROPE_AFTER
from exporter.graph.architectures import adjust, refuse_ignored_values
from exporter.source.model_directory import ModelDirectory

__all__ = ["BuiltGraph", "build_graph"]

_TASK = "text-generation"


@dataclass
class BuiltGraph:
    """The builder's result.

    model: graph with inputs input_ids, attention_mask, position_ids, past_key_values.*; outputs logits and present.*.
    module: the builder's module; its preprocess_weights maps stored tensors to parameters.
    window: sliding window that the builder leaves out of the graph because all layers share it; 0 for none.
    """

    model: ir.Model
    module: Any
    window: int

    def parameters(self) -> dict[str, ir.Value]:
        """Initializers that wait for weights, by name."""
        return {name: value for name, value in self.model.graph.initializers.items() if value.const_value is None}

    def map_weights(self, stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Parameters made of stored tensors, lazy or not: renamed, split, transposed as the graph wants them."""
        return self.module.preprocess_weights(stored)


def build_graph(source: ModelDirectory, dtype: str) -> BuiltGraph:
    """Build the graph of `source` with activations of `dtype` ("fp32" or "fp16").

    Raises InputError for a model type that is not a text-generation decoder or a configuration that does not build.
    """
    import mobius

    model_type = str(source.model_type)
    _check_type(mobius, model_type)
    refuse_ignored_values(model_type, source.config)
    made: list[Any] = []
    registered = mobius.registry.get(model_type)

    class Adjusted:
        """The module class, with adjustments between construction and graph building."""

        __name__ = registered.__name__
        config_class = getattr(registered, "config_class", None)

        def __call__(self, config: Any) -> Any:
            module = registered(config)
            adjust(module, model_type, source.config)
            made.append(module)
            return module

    try:
        with _plain_configuration(source) as directory:
            package = mobius.build(
                directory,
                _TASK,
                module_class=Adjusted(),  # type: ignore[arg-type]
                dtype={"fp32": "f32", "fp16": "f16"}[dtype],
                load_weights=False,
                trust_remote_code=False,
                execution_provider="default",
            )
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{source.directory / CONFIG_FILE}: model_type {model_type!r} does not build with these values "
            f"({type(error).__name__}: {error})"
        ) from error
    model, module = package["model"], made[0]
    model.graph.name = "model"  # the builder names it after the temporary directory
    if (after := _long_rope_after(module)) is not None:
        model.metadata_props[LONG_ROPE_AFTER] = str(after)
    window = getattr(getattr(module, "model", None), "_gqa_local_window_size", lambda: 0)()
    return BuiltGraph(model, module, max(window, 0))


def _long_rope_after(module: Any) -> int | None:
    """Length after which a sequence takes the long factors of LongRoPE; None where the model has no second set."""
    ropes = [part for part in module.modules() if getattr(part, "has_long_cache", False)]
    return ropes[0].original_max_position_embeddings if ropes else None


@contextmanager
def _plain_configuration(source: ModelDirectory) -> Iterator[str]:
    """A directory with config.json alone, without the key for which the builder has quantized layers of its own."""
    config = {key: value for key, value in source.config.items() if key != "quantization_config"}
    with tempfile.TemporaryDirectory(prefix="dualbinary-config-") as directory:
        (Path(directory) / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
        yield directory


def _check_type(mobius: Any, model_type: str) -> None:
    registry = mobius.registry
    if model_type not in registry:
        known = ", ".join(sorted(n for n in registry.architectures() if n[:3] == model_type[:3])) or "see docs"
        raise InputError(f"model_type {model_type!r} is not one that the graph builder knows; similar ones: {known}")
    task = registry.get_registration(model_type).task
    task = task or getattr(registry.get(model_type), "default_task", _TASK)
    if task != _TASK:
        raise InputError(
            f"model_type {model_type!r} is built for {task}, not for {_TASK}; only decoders can be exported"
        )
