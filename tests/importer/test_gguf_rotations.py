"""GGUF files of folded models: declared rotations are taken over exactly, and anything else declared is refused."""

from typing import Any

import numpy as np
import pytest
import torch

from dualbinary import InputError
from dualbinary.contract.rotation import Rotation
from exporter.options import ExportOptions
from exporter.pipeline import export
from importer.checkpoint import write_model
from importer.inspect.source import inspect_source
from importer.readers import open_model
from tests.support.folded_models import HEAD, PREFIX, TABLE, signs_of, write_folded_model
from tests.support.gguf_files import Type, dequantized, write_tiny_model
from tests.support.sessions import logits

TOKENS = np.arange(24)[None] * 7 % 256
# Relative to the largest logit. A product of the library loses up to 1e-4 (the contract's 15 bits), which adds up like
# the square root of the number of products, 4e-4 for 14 and a head, and what norms and softmax make of it. A wrong sign
# or block is an error of the order of 1.
TOLERANCE = 1e-3


def exported(source, tmp_path, **options):
    """The import and the export of `source`: the result, and the file."""
    write_model(open_model(source), tmp_path / "checkpoint")
    out = tmp_path / "out" / "model.onnx"
    return export(tmp_path / "checkpoint", out, ExportOptions(logits="all", **options)), out


@pytest.mark.parametrize(
    ("name", "kind", "block_size", "tables"),
    [
        ("llama, folded", "PQ2_0", 128, True),
        ("llama, folded and tied", "PTQ1_0", 64, True),
        pytest.param("qwen3, folded", "PTQ1_0", 128, True, marks=pytest.mark.slow),
        ("qwen3, folded", "PQ2_0", 32, False),
        ("qwen35, folded", "PQ2_0", 128, True),
    ],
)
def test_an_export_computes_what_the_model_does_that_was_folded(tmp_path, name, kind, block_size, tables):
    path = tmp_path / "model.gguf"
    model = write_folded_model(path, name, kind=kind, block_size=block_size, tables=tables)

    result, out = exported(path, tmp_path, **({} if tables else {"embedding_bits": 32}))

    with torch.no_grad():
        wanted = model(torch.from_numpy(TOKENS)).logits.numpy()
    for with_library in (True, False):
        found = logits(out, TOKENS, with_library)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max())
    assert {row["rotation"] for row in result.report["layers"]} == {block_size}
    assert {row["rotation"] for row in result.report["tables"]} == {block_size if tables else None}


@pytest.mark.parametrize("kind", ["PQ2_0", "PTQ1_0"])
def test_every_weight_is_the_folded_one_to_the_bit(tmp_path, kind):
    model = write_folded_model(tmp_path / "model.gguf", kind=kind)
    opened = open_model(tmp_path / "model.gguf")
    assert {weight.kind for weight in opened.weights.values()} == {kind}
    for module, weight in opened.weights.items():
        assert weight.rotation is not None
        assert np.array_equal(weight.rotation.signs, signs_of(weight.K))
        found = weight.rotation.unrotated(dequantized(weight.read()))
        assert np.array_equal(found, model.get_submodule(module).weight.detach().numpy()), module


def test_plain_numbers_that_were_folded_are_turned_back(tmp_path):
    """A file may keep some folded weights in F16 or F32: an export multiplies with what they stand for."""
    wanted = np.random.default_rng(0).standard_normal((256, 128)).astype(np.float32)
    stored = Rotation(128, signs_of(128)).rotated(wanted)
    write_folded_model(tmp_path / "model.gguf", tensors={HEAD: (Type.F32, stored)})
    opened = open_model(tmp_path / "model.gguf")
    tensor = opened.tensors["lm_head.weight"]
    # two sums of 128 float32 roundings of at most 2^-24 each
    np.testing.assert_allclose(tensor.read(), wanted, rtol=0, atol=2 * 128 * 2.0**-24 * np.abs(wanted).max())
    assert "lm_head" not in opened.weights


def test_signs_may_be_left_out_where_all_are_one(tmp_path):
    identity = {f"{PREFIX}{key}": value for key, value in (("sign_mode", "identity"), ("sign_widths", None))}
    write_folded_model(tmp_path / "model.gguf", keys=identity | {f"{PREFIX}sign_values": None})
    opened = open_model(tmp_path / "model.gguf")
    assert all(weight.rotation is not None and (weight.rotation.signs == 1).all() for weight in opened.weights.values())


def test_types_of_folded_models_without_a_declaration_are_plain_weights_with_a_note(tmp_path):
    undeclared = dict.fromkeys([f"{PREFIX}{key}" for key in KEYS])
    write_folded_model(tmp_path / "model.gguf", keys=undeclared)
    opened = open_model(tmp_path / "model.gguf")
    assert all(weight.rotation is None for weight in opened.weights.values())
    assert any(
        "PQ2_0 are those of models with rotated inputs, but the file declares no" in note for note in opened.notes
    )


def test_an_inspection_says_what_is_rotated_and_counts_signs(tmp_path):
    write_folded_model(tmp_path / "model.gguf")
    found = inspect_source(tmp_path / "model.gguf")
    names = {kind.name: kind for kind in found.kinds}
    rotated = names["PQ2_0, rotated in blocks of 128"]
    assert found.linear_bits == pytest.approx(34 * 8 / 128 + 8 * (128 + 256) / rotated.weights)
    assert any("16 weights are folded with a Walsh-Hadamard transform in blocks of 128" in note for note in found.notes)
    write_model(open_model(tmp_path / "model.gguf"), tmp_path / "checkpoint")
    lines = inspect_source(tmp_path / "checkpoint").lines()
    assert any("rotated in blocks of 128" in line for line in lines)


KEYS = (
    "version", "block_size", "transform", "axis", "sign_mode", "sign_widths", "sign_values", "weight_names",
    "inverse_weight_names", "gdn_v_grouped", "tied_output",
)  # fmt: skip
Q = "blk.0.attn_q.weight"
SIGNS = [int(sign) for width in (128, 256) for sign in signs_of(width)]
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a newer version": ("", {"version": 3}, "version: expected one of 1, 2, got 3"),
    "no version": ("", {"version": None}, "version: expected a whole number, got None"),
    "an unknown key": ("", {"permutation": "x"}, "hadamard.permutation declares a rotation that this release does not"),
    "another transform": (
        "",
        {"transform": "dct"},
        "transform: expected normalized-sylvester-walsh-hadamard, got 'dct'",
    ),
    "another axis": ("", {"axis": "output"}, "axis: expected input-last-dimension, got 'output'"),
    "blocks of 96": ("", {"block_size": 96}, "block_size: expected a power of two from 2 to 32768, got 96"),
    "blocks of 0": ("", {"block_size": 0}, "block_size: expected a power of two from 2 to 32768, got 0"),
    "blocks that do not divide": ("", {"block_size": 256}, "block_size: expected a number that divides the 128 inputs"),
    "another mode of signs": ("", {"sign_mode": "random"}, "sign_mode: expected identity or explicit, got 'random'"),
    "signs beside identity": ("", {"sign_mode": "identity"}, "sign_widths: expected none where sign_mode is identity"),
    "a width without signs": (
        "",
        {"sign_widths": [128], "sign_values": SIGNS[:128]},
        "sign_widths: expected 256 among them, the inputs of 'blk.0.ffn_down.weight'",
    ),
    "a sign of 0": ("", {"sign_values": [0, *SIGNS[1:]]}, r"sign_values: expected 1 or -1, got \[0\]"),
    "a sign too few": ("", {"sign_values": SIGNS[1:]}, "sign_values: expected 384 signs, as sign_widths say, got 383"),
    "a width twice": ("", {"sign_widths": [128, 128, 128]}, "sign_widths: expected each number once"),
    "a width of 0": ("", {"sign_widths": [0, 384]}, "sign_widths: expected numbers above 0"),
    "signs as text": ("", {"sign_values": ["1"]}, "sign_values: expected whole numbers, got"),
    "no weights": ("", {"weight_names": None, "inverse_weight_names": None}, "weight_names: expected names of tensors"),
    "a weight that is not there": (
        "",
        {"weight_names": ["blk.7.attn_q.weight"]},
        "weight_names: expected names of weigh",
    ),
    "a weight twice": (
        "",
        {"weight_names": [Q, Q]},
        "weight_names: expected each name once, got 'blk.0.attn_q.weight'",
    ),
    "a norm": ("", {"weight_names": ["blk.0.attn_norm.weight"]}, "weight_names: expected names of weights that are"),
    "a table as a weight": ("", {"weight_names": [TABLE]}, "weight_names: expected weights of linear layers that this"),
    "a weight as a table": ("", {"inverse_weight_names": [Q]}, f"inverse_weight_names: expected {TABLE}, got '{Q}'"),
    "a number for text": ("", {"weight_names": 7}, "weight_names: expected names of tensors, got 7"),
    "text for a flag": ("", {"tied_output": "yes"}, "tied_output: expected true or false, got 'yes'"),
    "a tied head in version 1": ("", {"tied_output": True}, "tied_output: expected false in version 1, got True"),
    "version 2 with a head": (
        "",
        {"version": 2, "tied_output": True},
        "tied_output: expected true only where the head",
    ),
    "version 2 untied": ("", {"version": 2}, "tied_output: expected true in version 2, got False"),
    "a folded table without a head": (
        "llama, folded and tied",
        {"version": 1, "tied_output": None},
        "version: expected 2 for a folded table without 'output.weight', got 1",
    ),
    "tiled values": (
        "qwen35, folded",
        {"gdn_v_grouped": False},
        "gdn_v_grouped: expected true where 'blk.0.ssm_out",
    ),
    "another family": ("gemma", {}, "expected of an architecture of llama, qwen3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_known_exactly_is_refused_by_name(tmp_path, case):
    name, keys, message = REFUSED[case]
    changed = {f"{PREFIX}{key}": value for key, value in keys.items()}
    if name == "gemma":
        write_tiny_model(tmp_path / "model.gguf", name, keys={f"{PREFIX}version": 1})
    else:
        write_folded_model(tmp_path / "model.gguf", name or "llama, folded", keys=changed)
    with pytest.raises(InputError, match=message) as caught:
        open_model(tmp_path / "model.gguf")
    assert "give the full-precision model" in str(caught.value)
    assert PREFIX in str(caught.value)
