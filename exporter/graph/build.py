"""The graph of a model directory, without weights: mobius-onnx builds it, our adjustments correct it.

The builder constructs the ONNX graph from onnxscript modules and never traces PyTorch, so this takes a second and no
weights whatever the model's size. It builds the portable form (standard Attention, RotaryEmbedding, fused norms), which
our passes turn into the operators that the runtime is fast at.
"""

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch

from dualbinary import InputError
from dualbinary.architectures.config_fields import field_table
from dualbinary.architectures.refused import refuse_type
from dualbinary.checkpoint import CONFIG_FILE
from dualbinary.files.model_files import LONG_ROPE_AFTER
from exporter.graph.architectures import adjust, builder_type, configure, is_hybrid
from exporter.graph.architectures.configuration import Configuration, read_configuration
from exporter.graph.architectures.rotation import put_in_rotations
from exporter.graph.architectures.windows import layer_windows, put_in_windows
from exporter.source.model_directory import ModelDirectory
from exporter.source.transformers_model import directory_of

__all__ = ["BuiltGraph", "build_graph"]

_TASKS = ("text-generation", "gemma4-text-generation")  # the builder's names for decoders of text; caches differ


@dataclass
class BuiltGraph:
    """The builder's result.

    model: graph with inputs input_ids, attention_mask, position_ids and what a decoder carries from step to step
        (dualbinary/files/cache_names.py); outputs logits and present.*.
    module: the builder's module; its preprocess_weights maps stored tensors to parameters.
    window: sliding window that the builder leaves out of the graph because all layers share it; 0 for none.
    longest_window: the longest window of any layer, in the graph or not; 0 for none.
    """

    model: ir.Model
    module: Any
    window: int
    longest_window: int

    def parameters(self) -> dict[str, ir.Value]:
        """Initializers that wait for weights, by name."""
        return {name: value for name, value in self.model.graph.initializers.items() if value.const_value is None}

    def map_weights(self, stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Parameters made of stored tensors, lazy or not: renamed, split, transposed as the graph wants them.

        Raises whatever the builder's code raises on tensors that it does not expect.
        """
        return self.module.preprocess_weights(stored)


def build_graph(source: ModelDirectory, dtype: str) -> BuiltGraph:
    """Build the graph of `source` with activations of `dtype` ("fp32" or "fp16").

    Raises InputError for a model type that is not a text-generation decoder or a configuration that does not build.
    """
    import mobius

    model_type = str(source.model_type)
    task = _task(mobius, model_type, source.config)
    refuse_type(model_type)
    configuration = read_configuration(source)
    adjusted = _adjusted(mobius, configuration)
    try:
        with directory_of(configuration.for_builder()) as directory:
            package = mobius.build(
                directory,
                task,
                module_class=adjusted,
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
    model = package["model"]
    model.graph.name = "model"  # the builder names it after the temporary directory
    if (after := _long_rope_after(adjusted.made)) is not None:
        model.metadata_props[LONG_ROPE_AFTER] = str(after)
    longest = max((*adjusted.windows, source.sliding_window))
    return BuiltGraph(model, adjusted.made, adjusted.window, longest)


def _adjusted(mobius: Any, configuration: Configuration) -> Any:
    """The builder's class, with adjustments between the module's construction and the graph's.

    After a module is made, `made` is it, `windows` are those of its layers, and `window` is what the graph leaves out.
    """
    model_type, values = configuration.model_type, configuration.values
    registered = mobius.registry.get(builder_type(model_type))

    class Adjusted:
        __name__ = registered.__name__
        config_class = _corrected_config_class(mobius, configuration)
        windows = layer_windows(values) if configuration.has_table else ()
        window = 0
        made: Any = None

        def __call__(self, config: Any) -> Any:
            self.made = module = registered(config)
            adjust(module, model_type, values)
            if configuration.has_table:
                put_in_rotations(module, configuration.read)
                self.window = put_in_windows(module, self.windows)
            else:
                window = getattr(getattr(module, "model", None), "_gqa_local_window_size", lambda: 0)()
                self.window = max(window, 0)
            return module

    return Adjusted()


def _corrected_config_class(mobius: Any, configuration: Configuration) -> type:
    """The class of the builder's configuration, with `configure` after what it reads from transformers'."""
    model_type = builder_type(configuration.model_type)
    base = getattr(mobius.registry.get(model_type), "config_class", None)
    if base is None or base is mobius.ArchitectureConfig:
        base = mobius.registry.get_config_class(model_type) or mobius.ArchitectureConfig

    class Corrected(base):
        @classmethod
        def from_transformers(cls, config: Any, **options: Any) -> Any:
            return configure(base.from_transformers(config, **options), configuration.read, configuration.values)

    return Corrected


def _long_rope_after(module: Any) -> int | None:
    """Length after which a sequence takes the long factors of LongRoPE; None where the model has no second set."""
    ropes = [part for part in module.modules() if getattr(part, "has_long_cache", False)]
    return ropes[0].original_max_position_embeddings if ropes else None


def _task(mobius: Any, model_type: str, config: dict[str, Any]) -> Any:
    """What the builder is to make of a module. Raises InputError where it builds no decoder of text."""
    if is_hybrid(model_type):
        from exporter.graph.architectures.hybrid_task import HybridTask

        return HybridTask()
    registry, known_as = mobius.registry, builder_type(model_type)
    if known_as not in registry:
        known = ", ".join(sorted(n for n in registry.architectures() if n[:3] == model_type[:3])) or "see docs"
        raise InputError(f"model_type {model_type!r} is not one that the graph builder knows; similar ones: {known}")
    task = registry.get_registration(known_as).task
    task = task or getattr(registry.get(known_as), "default_task", _TASKS[0])
    if task not in _TASKS:
        raise InputError(
            f"model_type {model_type!r} is built for {task}, not for {_TASKS[0]}; only decoders can be exported"
            + _inner_text(config)
        )
    return task


def _inner_text(config: dict[str, Any]) -> str:
    """The way out for a model of text and images whose text model could be exported."""
    inner = config.get("text_config")
    kind = inner.get("model_type") if isinstance(inner, dict) else None
    if not isinstance(kind, str) or field_table(kind) is None:
        return ""
    return f". The {kind} inside it can: give a directory of that alone, or a GGUF file, which holds no other part"
