"""What a checkpoint says about formats: the third version of its schema."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualbinary import InputError
from dualbinary.checkpoint import (
    FORMAT_VERSION,
    METHODS,
    PER_TENSOR,
    QuantizationConfig,
    check_modules,
    load_module,
    read_quantization_config,
    stored_tensors,
    write_checkpoint,
)
from dualbinary.contract.weight import PlaneFormat
from tests.support.random_weights import plane_formats, random_weight

CONFIG = QuantizationConfig("fit", planes=2, group_size=64, has_offset=True, modules_to_not_convert=("lm_head",))
PARTS = ("planes", "scales")
EVEN = {"levels": "even", "has_offset": False}


def block(**changes):
    return {**CONFIG.to_dict(), **changes}


def newest(**changes):
    return block(format_version=FORMAT_VERSION, **changes)


def override(values, **changes):
    return newest(overrides={"m.n": values}, **changes)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (block(levels="even"), "levels: unknown key; .*levels is of format_version 3"),
        (block(format_version=2, overrides={}), "overrides: unknown key; .*overrides is of format_version 3"),
        (block(group_size="tensor"), 'group_size: expected a number, or even levels with .*, got "tensor"'),
        (newest(levels="odd"), 'levels: expected one of free, symmetric, even, got "odd"'),
        (newest(levels=None), "levels: expected one of .* got null"),
        (newest(levels="symmetric", has_offset=False), "has_offset: expected an offset with symmetric levels"),
        (newest(zero=1), "zero: expected 0 with free levels, got 1"),
        (newest(levels="even", zero=1), "zero: expected 0 beside an offset, got 1"),
        (newest(**EVEN, zero=3.5), "zero: expected a multiple of 0.5 from 0 to 3, or 'group', got 3.5"),
        (newest(**EVEN, zero=0.25), "zero: expected a multiple of 0.5 .* got 0.25"),
        (newest(**EVEN, zero=float("nan")), "zero: expected a multiple of 0.5 .* got NaN"),
        (newest(**EVEN, zero=True), "zero: expected a multiple of 0.5 .* got true"),
        (newest(**EVEN, zero="groups"), 'zero: expected a multiple of 0.5 .* got "groups"'),
        (newest(**EVEN, zero="group", group_size="tensor"), "group_size: expected a number, or even levels with one"),
        (newest(group_size=16), "group_size: expected a positive multiple of 32, .*; 16 with even levels, got 16"),
        (newest(overrides=[]), "overrides: expected an object of module names"),
        (newest(overrides={"": {}}), "overrides: expected module names"),
        (override(3), "overrides.m.n: expected an object with keys of planes"),
        (override({"bits": 3}), "overrides.m.n.bits: unknown key; expected planes, group_size"),
        (override({"planes": 9}), "overrides.m.n.planes: expected an integer from 1 to 8, got 9"),
        (override({"group_size": 16}), "overrides.m.n.group_size: .*; 16 with even levels, got 16"),
        (override({"levels": None}), "overrides.m.n.levels: expected one of"),
        (override({"has_offset": 0}), "overrides.m.n.has_offset: expected true or false, got 0"),
        (override({"levels": "even", "zero": 1}), "overrides.m.n.zero: expected 0 beside an offset, got 1"),
        (override({"levels": "free"}, **EVEN, zero=1), "overrides.m.n.zero: .* got 1 of the default; give another"),
        (override({}, modules_to_not_convert=["m.n"]), "overrides.m.n: modules_to_not_convert names the module too"),
    ],
)
def test_formats_that_are_wrong_are_refused_by_key(wrong, message):
    with pytest.raises(InputError, match=f"quantization_config.{message}"):
        QuantizationConfig.from_dict(wrong)


OLD = """{
 "quant_method": "dualbinary",
 "format_version": %s,
 "method": "qbb",
 "planes": 3,
 "group_size": %s,
 "has_offset": true,
 "modules_to_not_convert": [
  "lm_head"
 ]
}"""


@pytest.mark.parametrize("values", [(1, 64), (2, -1)], ids=str)
def test_old_versions_are_written_byte_for_byte_as_before(values):
    text = OLD % values
    assert json.dumps(QuantizationConfig.from_dict(json.loads(text)).to_dict(), indent=1) == text


@pytest.mark.parametrize(
    "changes",
    [{"levels": "even"}, {"overrides": {"m": {}}}, {"overrides": {"m": {"planes": 2}}}],
    ids=str,
)
def test_what_old_versions_cannot_say_is_written_in_the_third(changes):
    config = replace(CONFIG, **changes)
    assert config.to_dict()["format_version"] == 3
    assert QuantizationConfig.from_dict(config.to_dict()) == config


def test_levels_that_the_method_decides_need_no_word():
    assert replace(CONFIG, levels="free") == CONFIG
    assert replace(CONFIG, method="qbb").plane_format.levels == "symmetric"
    assert replace(CONFIG, method="qbb", levels="free").plane_format.levels == "free"


def test_levels_of_an_override_are_not_left_to_the_method():
    """With an offset qbb decides symmetric levels, and without one free ones."""
    default, own = PlaneFormat(2, 64), PlaneFormat(2, 64, True)
    assert QuantizationConfig.of_formats("qbb", default, {"m": own}).format_of("m") == own


@given(data=st.data(), method=st.sampled_from(METHODS), seed=st.integers(0, 2**32 - 1))
def test_modules_of_any_formats_through_a_file_come_back(tmp_path_factory, data, method, seed):
    rng = np.random.default_rng(seed)
    default, forms = data.draw(plane_formats(200), label="default"), {}
    sizes = {"a": (2, 200), "a.b": (3, 77), "a.c": (1, 32)}
    for module in ("a.b", "a.c"):
        forms[module] = data.draw(plane_formats(sizes[module][1]), label=module)
    config = QuantizationConfig.of_formats(method, default, forms)
    weights = {module: random_weight(rng, *size, forms.get(module, default)) for module, size in sizes.items()}
    arrays = {f"{module}.{part}": getattr(weight, part) for module, weight in weights.items() for part in PARTS}
    path = tmp_path_factory.mktemp("any") / "c"

    write_checkpoint(path, {}, config, arrays.items())

    assert read_quantization_config(path) == config
    old = all(
        form == default and form.version == 1 and form.scale_dtype != np.uint8 for form in (default, *forms.values())
    )
    version = json.loads((path / "config.json").read_text())["quantization_config"]["format_version"]
    assert old or version == 3
    stored = stored_tensors(path)
    check_modules(config, stored, sizes)
    for module, weight in weights.items():
        form = replace(forms.get(module, default), scale_dtype=np.float16)
        assert config.format_of(module) == form
        assert form in config.formats
        read = load_module(stored, module, *sizes[module], config.format_of(module))
        assert read.format == replace(form.for_inputs(weight.K), scale_dtype=weight.scales.dtype)
        for part in PARTS:
            np.testing.assert_array_equal(getattr(read, part), getattr(weight, part))


def test_one_step_for_all_outputs_is_asked_for_by_config(tmp_path):
    config = QuantizationConfig("fit", 2, PER_TENSOR, False, levels="even", zero=1)
    weight = random_weight(np.random.default_rng(0), 6, 100, config.plane_format).with_own_scales()
    write_checkpoint(tmp_path / "c", {}, config, {"m.planes": weight.planes, "m.scales": weight.scales}.items())
    stored = stored_tensors(tmp_path / "c")
    with pytest.raises(
        InputError, match=r"m.scales: expected F16 .*\[1, 1, 1\], or U8 \[1, 1, 3\], got F16 \[1, 6, 1\]"
    ):
        check_modules(config, stored, {"m": (6, 100)})
    with pytest.raises(InputError, match=r"m: has .* scales \[1, 6, 1\], expected .* \[1, 1, 1\] from config.json"):
        load_module(stored, "m", 6, 100, config.plane_format)


@pytest.mark.parametrize("dtype", [np.float16, np.uint8])
def test_scales_of_new_types_need_the_third_version(tmp_path, dtype):
    form = replace(CONFIG.plane_format, scale_dtype=np.dtype(dtype))
    weight = random_weight(np.random.default_rng(0), 6, 100, form)
    write_checkpoint(tmp_path / "c", {}, CONFIG, {"m.planes": weight.planes, "m.scales": weight.scales}.items())
    written = json.loads((tmp_path / "c" / "config.json").read_text())["quantization_config"]
    assert written["format_version"] == (1 if dtype is np.float16 else 3)
    assert read_quantization_config(tmp_path / "c") == CONFIG


@pytest.mark.parametrize(
    ("override", "key", "where"),
    [
        ({}, "planes", "planes"),
        ({"n": {}}, "n", "overrides.n"),
        ({"m.n": {"zero": 0}}, "zero", "overrides.m.n.zero"),
    ],
)
def test_two_values_of_a_key_are_refused(tmp_path, override, key, where):
    text = json.dumps({"quantization_config": newest(overrides=override)})
    (tmp_path / "config.json").write_text(text.replace(f'"{key}":', f'"{key}": 5, "{key}":'))
    with pytest.raises(InputError, match=f"config.json: quantization_config.{where}: given twice"):
        read_quantization_config(tmp_path)


def test_two_blocks_are_refused(tmp_path):
    text = json.dumps({"quantization_config": CONFIG.to_dict()})
    (tmp_path / "config.json").write_text(f"{text[:-1]}, {text[1:]}")
    with pytest.raises(InputError, match=r"config.json: quantization_config: given twice; expected one"):
        read_quantization_config(tmp_path)


def test_overrides_of_modules_that_do_not_exist_are_refused():
    config = replace(CONFIG, overrides={"layers.1.q_proj": {"planes": 3}})
    with pytest.raises(InputError, match=r"overrides.layers.1.q_proj: the model has no Linear module of that name"):
        check_modules(config, {}, {"layers.0.q_proj": (6, 100)})


TABLE = PlaneFormat(4, 32, levels="even", zero="group")


def test_a_table_is_quantized_only_where_an_override_names_it(tmp_path):
    weight = random_weight(np.random.default_rng(0), 6, 100, TABLE)
    tensors = {"embed.planes": weight.planes, "embed.scales": weight.scales}
    for default in (CONFIG.plane_format, TABLE):  # also where it has the format of all
        config = QuantizationConfig.of_formats("fdb", default, {}, (), {"embed": TABLE})
        assert QuantizationConfig.from_dict(config.to_dict()) == config
        assert config.format_of("embed") == TABLE
        write_checkpoint(tmp_path / str(default.planes), {}, config, tensors.items())
        stored = stored_tensors(tmp_path / str(default.planes))
        check_modules(config, stored, {}, {"embed": (6, 100), "head": (6, 100)})
        found = load_module(stored, "embed", 6, 100, config.format_of("embed"))
        np.testing.assert_array_equal(found.dequantize(), weight.dequantize())
        with pytest.raises(InputError, match=r"embed.planes: expected U8 \[4, 7, 17\]"):
            check_modules(config, stored, {}, {"embed": (7, 100)})
        with pytest.raises(
            InputError, match=r"embed: the model has no Linear module of that name, and its .* are head"
        ):
            check_modules(config, stored, {}, {"head": (6, 100)})
        with pytest.raises(InputError, match=r"embed.planes: not expected; .*overrides does not name embed"):
            check_modules(QuantizationConfig.of_formats("fdb", default, {}), stored, {}, {"embed": (6, 100)})
