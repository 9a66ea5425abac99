"""What transformers makes of config.json: the configuration, the parameters, and which of them are multiplied with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualbinary import InputError

__all__ = ["Modules", "configuration", "modules_of"]


@dataclass(frozen=True)
class Modules:
    """The parts of a model.

    Attributes:
        parameters: the shape of each by name, tied ones once.
        linears: linear layers by module: (N, K).
        tables: token embedding, and a head that is not tied to it: (V, H).
        transposed: those of `linears` whose parameter is [K, N].
    """

    parameters: dict[str, tuple[int, ...]]
    linears: dict[str, tuple[int, int]]
    tables: dict[str, tuple[int, int]]
    transposed: frozenset[str]

    @property
    def weights(self) -> dict[str, tuple[int, int]]:
        """Linear layers and tables."""
        return self.linears | self.tables


def configuration(values: dict[str, Any], directory: Path) -> Any:
    """The configuration object of config.json's `values`. Raises InputError where transformers refuses them."""
    import transformers

    given = {name: value for name, value in values.items() if name not in ("model_type", "quantization_config")}
    kind = str(values.get("model_type"))
    try:
        return transformers.AutoConfig.for_model(kind, **given)
    except Exception as error:  # whatever the validation of a value raises
        raise InputError(
            f"{directory}: transformers {transformers.__version__} refuses config.json: {error}"
        ) from error


def modules_of(config: Any, directory: Path) -> Modules:
    """The parts of the model of a configuration. Raises InputError where transformers cannot build it."""
    import torch
    import transformers
    from transformers.pytorch_utils import Conv1D

    try:
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config)
    except Exception as error:  # whatever a class raises at values that do not go together
        raise InputError(f"{directory}: transformers cannot build this model: {error}") from error
    linears: dict[str, tuple[int, int]] = {}
    tables: dict[str, tuple[int, int]] = {}
    transposed = set()
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    for name, module in model.named_modules():
        if module is head and config.tie_word_embeddings:
            continue
        if isinstance(module, Conv1D):
            linears[name] = (int(module.weight.shape[1]), int(module.weight.shape[0]))
            transposed.add(name)
        elif isinstance(module, torch.nn.Linear) or module in (embedding, head):
            rows, columns = module.weight.shape
            (tables if module in (embedding, head) else linears)[name] = (int(rows), int(columns))
    parameters = {name: tuple(value.shape) for name, value in model.named_parameters()}
    return Modules(parameters, linears, tables, frozenset(transposed))
