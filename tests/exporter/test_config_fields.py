"""Every field of config.json is honored, refused by value, or without effect, for every verified model type.

transformers says which: a field counts as read where another value of it alone changes the model's parameters or its
logits. What is read must be honored by the exported file or refused in a sentence.
"""

import dataclasses
import importlib
import inspect
import re
import shutil
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, RopeParameters

from dualbinary import InputError
from dualbinary.architectures.config_fields import common_table, field_table, rope_table
from exporter.graph.architectures import VERIFIED
from exporter.options import ExportOptions
from exporter.pipeline import export
from tests.support.config_cases import CASES, OTHER, REFUSED, REFUSED_ACTIVATION, fields_of, strays_of, unread_value
from tests.support.exact_models import (
    MOVED,
    SAME,
    configuration,
    exact_model,
    exported_logits,
    loaded,
    relative_error,
    torch_logits,
)
from tests.support.families import by_kind
from tests.support.tiny_models import edit_config

_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "moe_intermediate_size", "ffn_dim")
_SIZES += ("shared_expert_intermediate_size", "num_hidden_layers", "n_embd", "n_layer", "n_head", "n_positions")
_PER_LAYER = ("layer_types", "no_rope_layers", "attention_types")
# How long sequences can be, not what becomes of them, where positions are not learned.
_LENGTHS = {"max_position_embeddings", "n_positions", "max_seq_len"}
_NOT_TRIED = ("architectures", "per_layer_config")  # the class to load; and what these classes refuse themselves
# transformers' eager attention ignores it, its other kinds follow it.
_CONTRADICTED = {(kind, "use_bidirectional_attention") for kind in ("gemma", "gemma2")}
_BEHIND_A_NORM = {"flex_olmo": {"norm_topk_prob"}}  # a factor of all experts, which the norm behind them undoes
_WITHOUT_FIELD = {"head_dim", "per_layer_config"}  # which classes have without a field of that name
_DETERMINED = {"granitemoehybrid": {"mamba_d_head"}}  # by others: transformers takes no value but one
_BY_NAME = {"classifier_dropout", "sliding_window"}  # of heads that classify; of attention that is not eager
_CLASS_ATTRIBUTES = {"attribute_map", "default_theta", "ignore_keys_at_rope_validation", "keys_to_ignore_at_inference"}
_CLASS_ATTRIBUTES |= {"base_config_key", "model_type", "sub_configs"}


@dataclasses.dataclass(frozen=True)
class Made:
    """A model, a directory that holds it, and, once they are asked for, logits in transformers and of its export."""

    model: Any
    directory: Path

    @cached_property
    def expected(self) -> np.ndarray:
        return torch_logits(self.model)

    @cached_property
    def exported(self) -> np.ndarray:
        return exported_logits(self.directory, self.directory.with_name("exported") / "model.onnx")


def make(model_type: str, case: dict[str, Any], folder: Path) -> Made:
    made = Made(exact_model(configuration(model_type, case)), folder / "model")
    made.model.save_pretrained(made.directory)
    return made


def _moves(made: Made, model_type: str, values: dict[str, Any]) -> bool:
    """Tell if transformers makes other parameters or other logits of `values` than those of a model."""
    try:
        config = configuration(model_type, values)
    except Exception:  # a value that does not go with the others, which transformers refuses
        return False
    try:
        return _differs(made, config)
    except (KeyError, RuntimeError, TypeError, ValueError):  # the class takes the value, and its model cannot run
        return True


def _differs(made: Made, config: Any) -> bool:
    """Tell if the model of `config` has other parameters, or other logits, than a model."""
    other = exact_model(config)
    shapes = {name: parameter.shape for name, parameter in other.named_parameters()}
    if shapes != {name: parameter.shape for name, parameter in made.model.named_parameters()}:
        return True
    other.load_state_dict(made.model.state_dict())
    return relative_error(torch_logits(other), made.expected) > MOVED


def _with_another(model_type: str, case: dict[str, Any], name: str) -> dict[str, Any]:
    """`case` with another value of one field."""
    if name in ("num_hidden_layers", "num_layers", "use_sliding_window"):
        case = {key: value for key, value in case.items() if key not in _PER_LAYER}
    if name in _SIZES:
        return case | {name: 2 * case[name]}
    if name == "rope_parameters":
        nested = any(isinstance(value, dict) for value in case[name].values())
        plain = {"rope_type": "default", "rope_theta": 100.0}
        return case | {name: dict.fromkeys(case[name], plain) if nested else plain}
    return case | {name: OTHER[name] if name in OTHER else fields_of(model_type).get(name)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What is made of the first case of a type, once."""

    @cache
    def get(model_type: str) -> Made:
        return make(model_type, CASES[model_type][0], tmp_path_factory.mktemp(model_type))

    return get


@pytest.mark.parametrize("model_type", by_kind(CASES))
def test_every_field_that_transformers_reads_is_honored(made, tmp_path, model_type):
    table = field_table(model_type)
    assert table is not None
    moved, experts = set(), "num_experts_per_tok" in fields_of(model_type)
    for index, case in enumerate(CASES[model_type]):
        one = make(model_type, case, tmp_path / f"case{index}") if index else made(model_type)
        names = [name for name in case if name in table.built and name not in moved]
        moved |= {name for name in names if _moves(one, model_type, _with_another(model_type, case, name))}

        error = relative_error(one.exported, one.expected, experts)

        assert error < SAME, (model_type, case, error)
    excused = _LENGTHS | _BEHIND_A_NORM.get(model_type, set()) | _DETERMINED.get(model_type, set())
    assert set(table.honored) - moved <= excused


@pytest.mark.parametrize("model_type", by_kind(CASES))
def test_fields_without_effect_and_those_of_other_types_change_nothing(made, tmp_path, model_type):
    pristine = made(model_type)
    directory = shutil.copytree(pristine.directory, tmp_path / "model")
    table, every = field_table(model_type), transformers.PretrainedConfig
    assert table is not None
    defaults = {field.name: field.default for field in dataclasses.fields(every)} | fields_of(model_type)
    unread = {n: unread_value(n, defaults[n]) for n in (*table.unread, *common_table().unread)}
    edit_config(directory, **strays_of(model_type), **unread)

    error = relative_error(torch_logits(loaded(directory)), pristine.expected)
    exported = exported_logits(directory, tmp_path / "out" / "model.onnx")

    assert error < 1e-5  # transformers itself reads none of them
    assert relative_error(exported, pristine.exported) < 1e-5


@pytest.mark.parametrize(
    ("model_type", "name"),
    [(kind, name) for kind in CASES for name in getattr(field_table(kind), "only", {})]
    + [("llama", name) for name in common_table().only],
)
def test_values_that_the_graph_would_not_honor_are_refused(made, tmp_path, model_type, name):
    pristine = made(model_type)
    value = REFUSED.get(f"{model_type}.{name}", REFUSED.get(name, REFUSED_ACTIVATION))
    directory = shutil.copytree(pristine.directory, tmp_path / "model")
    edit_config(directory, **{name: value})

    with pytest.raises(InputError, match=rf"^config\.json: {name}(=.* is not supported for {model_type}| is )"):
        export(directory, tmp_path / "out" / "model.onnx", ExportOptions())

    assert not (tmp_path / "out").exists()
    if name not in _NOT_TRIED and (model_type, name) not in _CONTRADICTED:
        assert _moves(pristine, model_type, CASES[model_type][0] | {name: value})


@pytest.mark.parametrize("activation", getattr(field_table("llama"), "only", {})["hidden_act"])
def test_every_activation_that_passes_is_that_of_transformers(tmp_path, activation):
    model = exact_model(configuration("llama", CASES["llama"][0] | {"hidden_act": activation, "rms_norm_eps": 1e-5}))
    model.save_pretrained(tmp_path / "model")

    exported = exported_logits(tmp_path / "model", tmp_path / "out" / "model.onnx")

    assert relative_error(exported, torch_logits(model)) < SAME


def test_every_field_of_a_rotation_moves_logits(tmp_path):
    """That the export honors them is tested with the cases: its tables are those of transformers."""
    moved = set()
    for model_type in ("llama", "phi", "hunyuan_v1_dense"):
        for case in CASES[model_type]:
            one, rope = Made(exact_model(configuration(model_type, case)), tmp_path), case["rope_parameters"]
            for name in rope.keys() - moved:
                other = {} if name == "rope_type" else rope
                values = case | {"rope_parameters": other | {name: OTHER[name]}}
                moved |= {name} if _moves(one, model_type, values) else set()

    assert moved == {*rope_table().honored, *rope_table().only}


@pytest.mark.parametrize("model_type", sorted(VERIFIED))
def test_every_field_of_the_class_has_a_place(model_type):
    """A field that transformers gains, or loses, is to be looked at."""
    table, kind = field_table(model_type), transformers.CONFIG_MAPPING[model_type]
    assert table is not None, f"{model_type} is verified: give it a table in config_fields.toml"
    names = [*table.honored, *table.only, *table.unread]
    modeling = importlib.import_module(kind.__module__.replace(".configuration_", ".modeling_"))
    by_name = set(re.findall(r"getattr\((?:self\.)?config, \"(\w+)\"", inspect.getsource(modeling)))

    assert len(names) == len(set(names))
    assert set(names) - _WITHOUT_FIELD == set(fields_of(model_type)) - _WITHOUT_FIELD
    assert by_name - set(names) <= {"add_cross_attention", "layer_types", "image_token_id", "head_dim", *_BY_NAME}
    attributes = {
        n for n, v in vars(kind).items() if not n.startswith("_") and not callable(v) and not isinstance(v, property)
    }
    plans = {name for name in attributes if re.fullmatch(r"base_model_\w+_plan", name)}
    assert attributes - plans - set(fields_of(model_type)) <= _CLASS_ATTRIBUTES


def test_common_fields_and_those_of_rotations_have_a_place():
    every = {field.name for field in dataclasses.fields(transformers.PretrainedConfig)}

    assert common_table().names == every | {"is_causal", "per_layer_config"}
    assert rope_table().names == {*RopeParameters.__annotations__, "alpha"}
    assert set(rope_table().only["rope_type"]) == {"default", *ROPE_INIT_FUNCTIONS}


def test_every_verified_type_has_cases():
    assert set(CASES) >= VERIFIED
