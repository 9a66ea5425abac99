"""Rotated inputs in a checkpoint: the fourth version of its schema."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualbinary import InputError
from dualbinary.checkpoint import (
    QuantizationConfig,
    check_modules,
    load_rotation,
    read_quantization_config,
    rotation_signs_name,
    stored_tensors,
    write_checkpoint,
)
from dualbinary.contract.hadamard import hadamard_matrix
from dualbinary.contract.rotation import Rotation
from dualbinary.contract.weight import PlaneFormat
from tests.support.random_weights import random_weight

FORM = PlaneFormat(2, 32, levels="even", zero=1)
CONFIG = QuantizationConfig("imported", 2, 32, False, levels="even", zero=1, rotation={"block_size": 32})
SIZES = {"a.b": (3, 96), "a.c": (2, 64)}
TABLES = {"embed": (5, 64)}


def signs_of(rng, k):
    return rng.choice(np.array([-1, 1], np.int8), k)


def checkpoint(path, config, signs):
    rng = np.random.default_rng(0)
    tensors = {}
    for module, size in {**SIZES, **TABLES}.items():
        weight = random_weight(rng, *size, FORM)
        tensors |= {f"{module}.planes": weight.planes, f"{module}.scales": weight.scales}
    tensors |= {rotation_signs_name(module): array for module, array in signs.items()}
    write_checkpoint(path, {}, config, tensors.items())
    return stored_tensors(path)


@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_rotations_through_a_file_come_back(tmp_path_factory, data, seed):
    rng = np.random.default_rng(seed)
    sizes = st.sampled_from([None, 2, 16, 32])
    blocks = {module: data.draw(sizes, label=module) for module in (*SIZES, *TABLES)}
    rotations = {module: block for module, block in blocks.items() if block is not None}
    forms, tables = dict.fromkeys(SIZES, FORM), dict.fromkeys(TABLES, FORM)
    config = QuantizationConfig.of_formats("imported", FORM, forms, (), tables, rotations)
    signs = {module: signs_of(rng, {**SIZES, **TABLES}[module][1]) for module in rotations}
    path = tmp_path_factory.mktemp("any") / "c"

    stored = checkpoint(path, config, signs)

    read = read_quantization_config(path)
    assert read is not None
    assert read == config
    assert (json.loads((path / "config.json").read_text())["quantization_config"]["format_version"] == 4) == bool(
        rotations
    )
    check_modules(read, stored, SIZES, TABLES)
    for module, block in blocks.items():
        expected = None if block is None else Rotation(block, signs[module])
        assert load_rotation(read, stored, module) == expected


@given(block=st.sampled_from([2, 8, 64]), seed=st.integers(0, 2**32 - 1))
def test_a_rotation_is_that_of_its_matrix_and_undone_by_its_inverse(block, seed):
    rng = np.random.default_rng(seed)
    rotation = Rotation(block, signs_of(rng, 128))
    matrix = np.kron(np.eye(128 // block), hadamard_matrix(block)) / np.sqrt(block) * rotation.signs
    weight, x = rng.standard_normal((3, 128)), rng.standard_normal((2, 128))
    rounding = 2.0**-24 * 64  # of float32, of numbers that are below 64 and their products with others, which are more
    np.testing.assert_allclose(rotation.rotated(x), x @ matrix.T, rtol=0, atol=rounding)
    product = weight @ rotation.rotated(x).T.astype(np.float64)
    np.testing.assert_allclose(rotation.unrotated(weight) @ x.T, product, rtol=0, atol=128 * rounding)
    np.testing.assert_allclose(rotation.unrotated(rotation.rotated(x)), x, rtol=0, atol=128 * rounding)


def test_equal_rotations_can_be_shared():
    one = Rotation(4, np.array([1, -1, 1, 1], np.int8))
    assert len({one, Rotation(4, one.signs.copy()), Rotation(2, one.signs), Rotation(4, -one.signs)}) == 3


BLOCK = CONFIG.to_dict()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({**BLOCK, "format_version": 3}, "rotation: unknown key; .*; rotation is of format_version 4"),
        ({**BLOCK, "rotation": 32}, "rotation: expected null or .*block_size.*, got 32"),
        ({**BLOCK, "rotation": {"block_size": 32, "seed": 1}}, "rotation: expected null or .*block_size"),
        ({**BLOCK, "rotation": {"block_size": 48}}, "rotation.block_size: expected a power of two .* got 48"),
        ({**BLOCK, "rotation": {"block_size": 1}}, "rotation.block_size: expected a power of two from 2"),
        ({**BLOCK, "rotation": {"block_size": True}}, "rotation.block_size: expected a power of two .* got true"),
        (
            {**BLOCK, "overrides": {"m": {"rotation": {"block_size": 65536}}}},
            "overrides.m.rotation.block_size: expected a power of two .* to 32768, got 65536",
        ),
        (
            {k: v for k, v in BLOCK.items() if k != "rotation"}
            | {"format_version": 3, "overrides": {"m": {"rotation": {"block_size": 8}}}},
            "overrides: rotation is of format_version 4, got 3",
        ),
    ],
)
def test_rotations_that_are_wrong_are_refused_by_key(wrong, message):
    with pytest.raises(InputError, match=f"quantization_config.{message}"):
        QuantizationConfig.from_dict(wrong)


def test_a_module_of_an_override_can_have_no_rotation():
    config = replace(CONFIG, overrides={"m": {"rotation": None}})
    assert QuantizationConfig.from_dict(config.to_dict()) == config
    assert (config.block_size_of("m"), config.block_size_of("n")) == (None, 32)


ONES = {module: np.ones(k, np.int8) for module, (_, k) in SIZES.items()}


@pytest.mark.parametrize(
    ("config", "signs", "message"),
    [
        (CONFIG, {"a.b": ONES["a.b"]}, r"a.c.rotation_signs: missing; expected I8 \[64\]"),
        (CONFIG, ONES | {"a.c": np.ones(32, np.int8)}, r"a.c.rotation_signs: expected I8 \[64\], got I8 \[32\]"),
        (CONFIG, ONES | {"a.c": np.ones(64, np.int32)}, r"a.c.rotation_signs: expected I8 \[64\], got I32"),
        (CONFIG, ONES | {"embed": np.ones(64, np.int8)}, r"embed.rotation_signs: not expected; .* no rotation"),
        (CONFIG, ONES | {"x": np.ones(64, np.int8)}, r"x.rotation_signs: not expected; the model has no quantized"),
        (
            replace(CONFIG, rotation={"block_size": 64}),
            ONES,
            r"a.b: rotation.block_size .* divides its 96 inputs, got 64",
        ),
    ],
)
def test_signs_that_do_not_fit_are_refused(tmp_path, config, signs, message):
    config = replace(config, overrides={"embed": {"rotation": None}})
    with pytest.raises(InputError, match=message):
        check_modules(config, checkpoint(tmp_path / "c", config, signs), SIZES, TABLES)


def test_a_sign_of_zero_is_refused(tmp_path):
    zero = np.where(np.arange(64) == 7, 0, 1).astype(np.int8)
    stored = checkpoint(tmp_path / "c", CONFIG, ONES | {"a.c": zero})
    with pytest.raises(InputError, match=r"a.c.rotation_signs: signs: expected 1 or -1"):
        load_rotation(CONFIG, stored, "a.c")


def test_a_block_size_that_is_given_twice_is_refused(tmp_path):
    checkpoint(tmp_path / "c", CONFIG, ONES)
    file = tmp_path / "c" / "config.json"
    file.write_text(file.read_text().replace('"block_size": 32', '"block_size": 64, "block_size": 32'))
    with pytest.raises(InputError, match=r"quantization_config.rotation.block_size: given twice"):
        read_quantization_config(tmp_path / "c")
