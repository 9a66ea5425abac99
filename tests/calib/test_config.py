"""The configuration of a run: there and back through JSON, frozen, and every wrong value refused by its name."""

import json
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib.config import STAGES, BlockConfig, CalibConfig, DataConfig, DistillConfig, FormatConfig, InitConfig
from calib.weight_init import WEIGHT_INITS
from dualbinary import InputError
from dualbinary.contract.weight import PlaneFormat

counts = st.integers(1, 10_000)
rates = st.floats(0, 1, exclude_max=True)
shares = st.floats(0, 1)
formats = st.builds(
    FormatConfig,
    method=st.sampled_from(["fdb", "qbb"]),
    planes=st.integers(1, 4),
    group_size=st.just(-1) | st.integers(1, 9).map(lambda n: 32 * n),
)
weights = st.floats(0, 100)


@st.composite
def configs(draw):
    plane_format = draw(formats)
    known = [stage for stage in STAGES if stage != "layer" or plane_format.method == "qbb"]
    stages: Any = tuple(stage for stage in known if draw(st.booleans())) or ("init",)
    methods = [name for name, method in WEIGHT_INITS.items() if plane_format.method in method.methods]
    return CalibConfig(
        stages=stages,
        start=None if "init" in stages else draw(st.text(min_size=1)),
        skip=tuple(draw(st.lists(st.text(), max_size=3))),
        format=plane_format,
        data=draw(
            st.builds(
                DataConfig,
                text=st.lists(st.text(), max_size=3).map(tuple),
                separator=st.none() | st.text(),
                generate=st.integers(0, 9),
                text_share=shares,
                length=st.integers(8, 9999),
                start_token=st.none() | st.booleans(),
            )
        ),
        init=draw(st.builds(InitConfig, method=st.sampled_from(methods), windows=counts, refits=counts)),
        block=draw(st.builds(BlockConfig, windows=counts, latent_rate=rates, scale_rate=rates)),
        e2e=draw(st.builds(DistillConfig, ce=weights, dad=weights, gamma=shares, scale_rate=rates)),
        seed=draw(st.integers(0, 2**32 - 1)),
        dtype=draw(st.sampled_from(["auto", "float32", "bfloat16"])),
        cache_gb=draw(st.floats(1e-3, 1e6)),
    )


@given(configs())
def test_there_and_back_through_json(config):
    text = json.dumps(config.to_json())
    assert CalibConfig.from_json(json.loads(text), "a file") == config


def test_there_and_back_through_a_file(tmp_path):
    config = CalibConfig(seed=7, skip=("*.down_proj",))
    (tmp_path / "plain.json").write_text(json.dumps(config.to_json()))
    (tmp_path / "record.json").write_text(json.dumps({"version": 1, "config": config.to_json(), "blocks": []}))
    assert CalibConfig.read(tmp_path / "plain.json") == config
    assert CalibConfig.read(tmp_path / "record.json") == config


def test_a_file_of_the_first_version_means_the_same():
    old = CalibConfig().with_start_token(False).to_json()
    del old["layer"], old["targets"], old["format"]["method"]
    found = CalibConfig.from_json({**old, "version": 1, "seed": 3}, "a file")
    assert found == CalibConfig(seed=3, data=DataConfig(start_token=False))


def test_windows_of_older_versions_begin_anywhere():
    for version in (1, 2, 3):
        for value in ({}, {"data": {"length": 64}}):
            assert CalibConfig.from_json({"version": version, **value}, "a file").data.start_token is False
    assert CalibConfig.from_json({"version": 4}, "a file").data.start_token is None
    with pytest.raises(InputError, match="data: "):
        CalibConfig.from_json({"version": 2, "data": 3}, "a file")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"format": {"method": "qbb", "offset": False}}, "no-offset"),
        (
            {"format": {"method": "qbb"}, "init": {"method": "paper"}},
            "init.method: expected one of .*cascaded.* for qbb, got paper",
        ),
        ({"stages": ["e2e"], "start": "a", "targets": "b"}, "targets: only the stages init and layer"),
        ({"format": {"measured": "calibration.json"}}, "measured: expected no value without --bits or --size"),
    ],
)
def test_what_does_not_go_together_is_named(changes, named):
    with pytest.raises(InputError, match=named):
        CalibConfig.from_json(changes, "a file")


def test_what_is_left_out_has_its_default():
    config = CalibConfig.from_json({"seed": 3, "block": {"epochs": 2}}, "a file")
    assert config == CalibConfig(seed=3, block=BlockConfig(epochs=2))


WRONG = [
    ("version", 5),
    ("stages", []),
    ("stages", ["init", "layer", "block"]),  # layer is of another method
    ("stages", ["block", "init"]),
    ("stages", ["init", "init"]),
    ("stages", ["init", "train"]),
    ("stages", ["block"]),  # starts from nothing
    ("start", "directory"),  # two starts
    ("skip", "*.down_proj"),
    ("skip", [1]),
    ("seed", -1),
    ("seed", 1 << 32),
    ("seed", 1.5),
    ("seed", "1"),
    ("seed", True),
    ("dtype", "float16"),
    ("cache_gb", 0),
    ("cache_gb", "much"),
    ("format.planes", 0),
    ("format.planes", 5),  # of free levels
    ("format.planes", 9),
    ("format.planes", 2.0),
    ("format.group_size", 0),
    ("format.group_size", 48),
    ("format.group_size", -32),
    ("format.offset", 1),
    ("format.method", "gptq"),
    ("format.group_size", 16),  # of free levels
    ("format.levels", "uniform"),
    ("format.zero", 0.5),  # of free levels
    ("format.embedding_bits", 5),
    ("format.rotate", 96),
    ("format.rotate", 8),
    ("format.rotate", 1 << 16),
    ("format.zero", "each"),
    ("format.scale_type", "int8"),
    ("format.bits", 1.0),
    ("format.size", 0),
    ("format.size", "heavy"),
    ("format.other_bytes", -1),
    ("format.measured", 3),
    ("format.override", "*:planes=3"),
    ("format.override", ["planes=3"]),
    ("data.text", "book.txt"),
    ("data.generate", -1),
    ("data.keep", -1),
    ("data.keep_by", "length"),
    ("data.scores", "calibration.json"),  # of nothing that is kept
    ("data.text_share", 1.5),
    ("data.length", 7),
    ("data.start_token", 1),
    ("init.method", "best"),
    ("init.method", "cascaded"),  # of another method
    ("layer.solver", "magic"),
    ("layer.rounds", 0),
    ("layer.steps", 0),
    ("layer.latent_rate", 1),
    ("layer.scale_rate", -1),
    ("targets", 3),
    ("init.windows", 0),
    ("init.refits", -1),
    ("init.polishes", -1),
    ("init.damping", 0),
    ("init.damping", 1),
    ("block.windows", 0),
    ("block.held_out", 0),
    ("block.epochs", 0),
    ("block.batch", 0),
    ("block.latent_rate", -0.1),
    ("block.latent_rate", 1),
    ("block.scale_rate", None),
    ("e2e.steps", 0),
    ("e2e.batch", 0),
    ("e2e.micro_batch", 0),
    ("e2e.kl", -1),
    ("e2e.kl", 0),  # no loss is left
    ("e2e.ce", "some"),
    ("e2e.dad", [1]),
    ("e2e.gamma", 2),
    ("e2e.mse", -1),
    ("e2e.mse_shift", 1),
    ("e2e.features", "all"),
    ("e2e.swap", 1.5),
    ("e2e.swap_schedule", "constant"),
    ("e2e.scale_rate", 1),
    ("e2e.latent_rate", -1),
    ("e2e.warmup", -1),
    ("e2e.held_out", -1),
    ("e2e.evaluate_every", 0),
    ("e2e.gradient_checkpointing", "yes"),
    ("unknown", 1),
    ("block.epoch", 1),
    ("e2e", 3),
]


@pytest.mark.parametrize(("key", "value"), WRONG, ids=str)
def test_a_wrong_value_is_refused_by_its_name(key: str, value):
    content = value
    for part in reversed(key.split(".")):
        content = {part: content}
    with pytest.raises(InputError) as error:
        CalibConfig.from_json(content, "run.json")
    message = str(error.value)
    assert message.startswith("run.json: ")
    assert "\n" not in message
    # What several keys say together is named by the part they are in, or by the keys themselves.
    named = {
        "stages": "stage",
        "start": "checkpoint to continue",
        "data.scores": "data: scores",
        "e2e.kl": "e2e: expected a positive weight for kl",
        "format.planes": "format: planes: expected 1 to 4",
        "format.group_size": "format: group_size",
        "format.zero": "format: zero: belongs to",
    }
    assert key in message or named.get(key, key) in message


def test_every_key_has_a_wrong_value_above():
    """A key that comes new gets its place in the list."""
    tried = {key for key, _ in WRONG}
    strings = {"data.separator", "data.generated"}  # any string is right
    for name, field in CalibConfig.model_fields.items():
        part = field.annotation
        if isinstance(part, type) and issubclass(part, pydantic.BaseModel):
            assert {f"{name}.{key}" for key in part.model_fields} <= tried | strings
        else:
            assert name in tried


@pytest.mark.parametrize("value", [None, [], 3, "text"])
def test_what_is_no_object_is_refused(value):
    with pytest.raises(InputError, match=r"^run\.json: "):
        CalibConfig.from_json(value, "run.json")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_rates_are_finite(number):
    with pytest.raises(pydantic.ValidationError, match="finite"):
        CalibConfig(cache_gb=number)
    with pytest.raises(InputError, match="cache_gb"):
        CalibConfig.from_json({"cache_gb": number}, "run.json")


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"config": 3}'])
def test_a_file_that_is_no_configuration_is_named(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match=r"run\.json"):
        CalibConfig.read(tmp_path / "run.json")
    with pytest.raises(InputError, match=r"absent\.json: missing"):
        CalibConfig.read(tmp_path / "absent.json")


def test_it_is_frozen():
    config = CalibConfig()
    for value, name in ((config, "seed"), (config.block, "epochs"), (config.format, "planes")):
        with pytest.raises(pydantic.ValidationError, match="frozen"):
            setattr(value, name, 1)
    assert isinstance(hash(config), int)


@pytest.mark.parametrize(
    ("stages", "method", "needed"),
    [
        (("init",), "fit", False),
        (("init",), "paper", False),
        (("init",), "activation", True),
        (("init",), "error-feedback", True),
        (("init", "block"), "fit", True),
        (("init", "e2e"), "fit", True),
    ],
)
def test_tokens_are_needed_where_a_stage_looks_at_them(stages, method, needed):
    assert CalibConfig(stages=stages, init=InitConfig(method=method)).needs_tokens == needed


def test_a_start_from_a_checkpoint_needs_tokens_for_what_follows():
    assert CalibConfig(stages=("e2e",), start="directory").needs_tokens


def test_the_format_is_that_of_the_layers():
    assert FormatConfig(planes=3, group_size=32, offset=False).plane_format == PlaneFormat(3, 32, offset=False)


def test_even_levels_have_their_middle_as_zero_where_none_is_given():
    def form(**values):
        return FormatConfig(levels="even", **values).plane_format

    assert form(planes=4, offset=False) == PlaneFormat(4, 96, levels="even", zero=7.5)
    assert form(planes=4) == PlaneFormat(4, 96, offset=True, levels="even")
    assert form(planes=8, offset=False, zero="group", group_size=16) == PlaneFormat(8, 16, levels="even", zero="group")


def test_a_configuration_is_written_in_the_words_of_its_oldest_version():
    """The work directory of a run says whose it is with these: one that began before goes on."""
    assert CalibConfig().to_json()["version"] == CalibConfig().with_start_token(True).to_json()["version"] == 4
    config = CalibConfig().with_start_token(False)
    assert config.to_json()["version"] == 2
    assert "start_token" not in config.to_json()["data"]
    assert config.to_json()["format"].keys() == {"method", "planes", "group_size", "offset"}
    newer = config.model_copy(update={"format": FormatConfig(levels="even", override=("*.q_proj:planes=3",))})
    assert newer.to_json()["version"] == 3
    assert newer.to_json()["format"].keys() - config.to_json()["format"].keys() == {"levels", "override"}


def test_the_stage_init_must_know_even_levels():
    for form in (FormatConfig(levels="even"), FormatConfig(override=("*.q_proj:levels=even",))):
        with pytest.raises(pydantic.ValidationError, match=r"init\.method: expected one of fit, .* for even levels"):
            CalibConfig(format=form, init=InitConfig(method="paper"))
