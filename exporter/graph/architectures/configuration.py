"""config.json as transformers understands it: the one reading that refusals, corrections and the builder share.

transformers 4 and 5 spell some values differently (rope_scaling and rope_parameters, torch_dtype and dtype), classes
have defaults for what a file leaves out, and files carry keys of other model types that nothing reads. The builder,
which looks for every key that any type has, would honor those. So for a type with a table of fields
(`dualbinary/architectures`) it gets a configuration that transformers has read and that holds the fields of this
table alone.
"""

from dataclasses import dataclass
from typing import Any

from dualbinary import InputError
from dualbinary.architectures.config_fields import built_values, refuse_common_values
from exporter.source.model_directory import ModelDirectory

__all__ = ["Configuration", "read_configuration"]

_GENERATORS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")  # names of classes that write text end so
_BY_LAYER = "per_layer_config"  # values that single layers have instead of those of the model
_PLAIN_ROPE = ("rope_theta", "partial_rotary_factor")


@dataclass(frozen=True)
class Configuration:
    """A configuration to build a graph from.

    Attributes:
        model_type: the model type.
        values: fields and values; of a type without a table of fields, what transformers reads of config.json.
        read: transformers' object for them.
        has_table: True for a type with a table.
    """

    model_type: str
    values: dict[str, Any]
    read: Any
    has_table: bool

    def for_builder(self) -> dict[str, Any]:
        """The config.json that the graph builder gets.

        Rotations are plain: `rotation.py` puts in transformers' own. Values of single layers are for `configure`: a
        configuration that has them says nothing about all layers, which is what the builder asks for.
        """
        values = self.values | ({_BY_LAYER: {}} if self.values.get(_BY_LAYER) else {})
        if not self.has_table or not values.get("rope_parameters"):
            return values
        rope = values["rope_parameters"]
        nested = {key: _plain(value) for key, value in rope.items() if isinstance(value, dict)}
        return values | {"rope_parameters": nested or _plain(rope)}


def read_configuration(source: ModelDirectory) -> Configuration:
    """Read the config.json of `source`.

    Raises InputError for a model that is no decoder, and for values that the graph would not honor.
    """
    model_type = source.model_type
    _refuse_other_tasks(model_type, source.config)
    refuse_common_values(model_type, source.config)
    read = source.transformers.config
    values = built_values(model_type, read)
    if values is None:
        return Configuration(model_type, source.transformers.read_values(), read, has_table=False)
    return Configuration(model_type, {"model_type": model_type, **values}, read, has_table=True)


def _plain(rope: dict[str, Any]) -> dict[str, Any]:
    return {"rope_type": "default"} | {key: rope[key] for key in _PLAIN_ROPE if key in rope}


def _refuse_other_tasks(model_type: str, config: dict[str, Any]) -> None:
    """Raise InputError where `architectures` names no class that writes text, nor the base model of one."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES

    names = config.get("architectures")
    if not isinstance(names, list) or not names:
        return
    base = MODEL_MAPPING_NAMES.get(model_type)
    if any(str(name).endswith(_GENERATORS) or name == base for name in names):
        return
    expected = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type, "the causal decoder of its model type")
    raise InputError(
        f"config.json: architectures is {', '.join(map(str, names))}, which does not write text; "
        f"only decoders can be exported, here {expected}"
    )
