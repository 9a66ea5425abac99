"""MLX directories of folded models: names, rotations and plain tensors as transformers has them; nothing is run."""

import json
import re
from typing import Any

import numpy as np
import pytest
import torch

from dualbinary import InputError
from dualbinary.checkpoint import load_rotation, read_quantization_config, stored_tensors
from dualbinary.contract.rotation import Rotation
from exporter.options import ExportOptions
from exporter.pipeline import export
from importer.checkpoint import write_model
from importer.readers import open_model
from tests.support import packed_words as slow
from tests.support.folded_models import PREFIX, signs_of
from tests.support.foreign_directories import dequantized, save
from tests.support.gguf_files import tiny_model
from tests.support.sessions import logits

HIDDEN, VALUE, GROUP = 128, 256, 64
LAYER = "language_model.model.layers.0."
FOLDED = {
    f"{LAYER}linear_attn.in_proj_qkv": (384, HIDDEN),
    f"{LAYER}linear_attn.in_proj_z": (VALUE, HIDDEN),
    f"{LAYER}linear_attn.out_proj": (HIDDEN, VALUE),
    f"{LAYER}mlp.gate_proj": (256, HIDDEN),
    f"{LAYER}mlp.up_proj": (256, HIDDEN),
    f"{LAYER}mlp.down_proj": (HIDDEN, 256),
    "language_model.lm_head": (128, HIDDEN),
}
TABLE = "language_model.model.embed_tokens"
FOLDABLE = re.compile(
    r"language_model\.(lm_head|model\.embed_tokens|model\.layers\.\d+\.(mlp\.\w+|self_attn\.[qkvo]_proj"
    r"|linear_attn\.(in_proj_qkv|in_proj_z|out_proj)))\.weight"
)
CONFIG: dict[str, Any] = {
    "model_type": "prism_hadamard_qwen35",
    "schema_version": 2,
    "base_model_type": "qwen3_5",
    "text_config": {"model_type": "qwen3_5_text", "hidden_size": HIDDEN},
    "tie_word_embeddings": False,
    "hadamard_config": "hadamard.json",
    "tensor_namespace": "mlx-vlm-qwen3_5",
    "gdn_activation_layout": "grouped",
    "requires_runtime": "runtime/artifact.py",
}
BLOCK = {"bits": 2, "group_size": GROUP, "mode": "affine"}
DECLARED = {
    "version": 1,
    "block_size": 128,
    "transform": "normalized-sylvester-walsh-hadamard",
    "axis": "input-last-dimension",
    "sign_mode": "explicit",
    "sign_widths": [128, 256],
    "sign_values": [float(sign) for K in (128, 256) for sign in signs_of(K)],
    "weight_names": [f"{name}.weight" for name in FOLDED],
    "inverse_weight_names": [f"{TABLE}.weight"],
    "gdn_v_grouped": True,
}


def directory(path, *, config=CONFIG, declared=DECLARED, changes=None):
    """Write a directory of ternary weights; returns their values by name. `changes` replaces tensors or leaves out."""
    rng = np.random.default_rng(0)
    tensors: dict[str, np.ndarray] = {}
    values = {}
    for name, (N, K) in (FOLDED | {TABLE: (128, HIDDEN)}).items():
        q = rng.integers(0, 3, (N, K))
        steps = rng.uniform(0.5, 1.5, (N, K // GROUP)).astype(np.float16)
        tensors |= {f"{name}.weight": slow.dense(q, 2).view(np.uint32), f"{name}.scales": steps}
        tensors |= {f"{name}.biases": -steps, f"{name}.signs": signs_of(K).astype(np.float16)}
        values[name] = (q - 1.0) * steps.astype(np.float64).repeat(GROUP, axis=1)
    tensors[f"{LAYER}linear_attn.conv1d.weight"] = rng.standard_normal((384, 4, 1)).astype(np.float16)
    tensors[f"{LAYER}linear_attn.norm.weight"] = np.full(64, 0.75, np.float16)
    tensors[f"{LAYER}input_layernorm.weight"] = np.full(HIDDEN, 1.25, np.float16)
    tensors["language_model.model.norm.weight"] = np.full(HIDDEN, 1.5, np.float16)
    tensors["vision_tower.patch_embed.proj.weight"] = np.ones((4, 4), np.float16)
    tensors |= changes or {}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save(path, kept, BLOCK, key="quantization", config=config)
    if declared is not None:
        (path / "hadamard.json").write_text(json.dumps({f"{PREFIX}{key}": value for key, value in declared.items()}))
    return values, tensors


def test_everything_is_as_transformers_has_it(tmp_path):
    values, tensors = directory(tmp_path / "source")
    model = open_model(tmp_path / "source")

    assert set(model.weights) == {name.removeprefix("language_model.") for name in values}
    for name, value in values.items():
        weight = model.weights[name.removeprefix("language_model.")]
        assert weight.rotation == Rotation(128, signs_of(weight.K))
        np.testing.assert_array_equal(dequantized(weight), value)
    conv = tensors[f"{LAYER}linear_attn.conv1d.weight"]
    found = {name: tensor.read() for name, tensor in model.tensors.items()}
    np.testing.assert_array_equal(found["model.layers.0.linear_attn.conv1d.weight"], conv.swapaxes(1, 2))
    assert (found["model.layers.0.linear_attn.norm.weight"] == 0.75).all()
    assert (found["model.layers.0.input_layernorm.weight"] == 0.25).all()
    assert (found["model.norm.weight"] == 0.5).all()
    assert model.config["model_type"] == "qwen3_5_text"
    assert model.config["tie_word_embeddings"] is False
    assert not {"hadamard_config", "requires_runtime", "quantization"} & set(model.config)
    assert any("1 tensors for pictures are left out" in note for note in model.notes)


def test_the_checkpoint_is_ternary_and_rotated(tmp_path):
    values, _ = directory(tmp_path / "source")
    write_model(open_model(tmp_path / "source"), tmp_path / "checkpoint")
    config, stored = read_quantization_config(tmp_path / "checkpoint"), stored_tensors(tmp_path / "checkpoint")
    assert config is not None
    for name, value in values.items():
        module = name.removeprefix("language_model.")
        form = config.format_of(module)
        assert (form.planes, form.zero, form.offset) == (2, 1, False)
        assert load_rotation(config, stored, module) == Rotation(128, signs_of(value.shape[1]))


def changed(key, value):
    return {"config": CONFIG | {key: value}}


def declared(**values):
    return {"declared": DECLARED | values}


REFUSED = {
    "another family": (changed("base_model_type", "qwen3_vl"), "base_model_type: expected 'qwen3_5', got 'qwen3_vl'"),
    "a newer schema": (changed("schema_version", 3), "schema_version: expected 2, got 3"),
    "other names": (changed("tensor_namespace", "x"), "tensor_namespace: expected 'mlx-vlm-qwen3_5', got 'x'"),
    "another order": (changed("gdn_activation_layout", "tiled"), "gdn_activation_layout: expected 'grouped'"),
    "no decoder": (changed("text_config", None), "text_config: expected that of a qwen3_5_text"),
    "a declaration elsewhere": (changed("hadamard_config", "../hadamard.json"), "hadamard_config: expected the name"),
    "no declaration": ({"declared": None}, "hadamard_config: expected the name of a file beside it"),
    "an empty declaration": ({"declared": {}}, "expected keys prism.hadamard"),
    "other signs": (
        {"changes": {f"{LAYER}mlp.up_proj.signs": -signs_of(128).astype(np.float16)}},
        "up_proj.signs: other signs than in the declaration",
    ),
    "signs of a layer that is not folded": (
        declared(weight_names=[f"{name}.weight" for name in FOLDED if "up_proj" not in name]),
        "up_proj.signs: not expected; the declaration does not fold",
    ),
    "tiled values": (declared(gdn_v_grouped=False), "gdn_v_grouped: expected true where '.*out_proj.weight' is folded"),
    "a weight that cannot be folded": (
        declared(weight_names=[f"{TABLE}.weight"]), "weight_names: expected weights of linear layers"
    ),
    "another block": (
        changed("modules", [{"path": f"{LAYER}mlp.up_proj", "block": 64}]),
        "up_proj: expected blocks of 64, as config.json says, got 128",
    ),
    "a tensor of something else": (
        {"changes": {"mtp.fc.weight": np.ones((4, 4), np.float16)}}, "mtp.fc.weight: expected tensors of language_model"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_known_exactly_is_refused(tmp_path, case):
    arguments, message = REFUSED[case]
    directory(tmp_path, **arguments)
    with pytest.raises(InputError, match=message):
        open_model(tmp_path)


def test_a_declaration_beside_another_model_is_not_overlooked(tmp_path):
    config = {key: CONFIG[key] for key in ("text_config",)} | {"model_type": "qwen3_5"}
    directory(tmp_path, config=config)
    with pytest.raises(InputError, match="schema_version: expected 2, got None"):
        open_model(tmp_path)


def test_an_export_computes_what_the_model_does_that_was_folded(tmp_path):
    model = tiny_model("qwen35, folded")
    tensors: dict[str, np.ndarray] = {}
    folded = []
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            stored = f"language_model.{name}"
            if not FOLDABLE.fullmatch(stored):
                moved = value.numpy() + np.float32(1 if _adds_one(name) else 0)
                tensors[stored] = moved.swapaxes(1, 2) if "conv1d.weight" in name else moved
                continue
            module, (N, K) = stored.removesuffix(".weight"), value.shape
            q, steps = rng.integers(0, 3, (N, K)), rng.uniform(0.05, 0.15, (N, K // GROUP)).astype(np.float16)
            ternary = (q - 1.0) * steps.astype(np.float64).repeat(GROUP, axis=1)
            value.copy_(torch.from_numpy(Rotation(128, signs_of(K)).unrotated(ternary)))
            tensors |= {stored: slow.dense(q, 2).view(np.uint32), f"{module}.scales": steps, f"{module}.biases": -steps}
            folded.append(stored)
    text = {key: value for key, value in model.config.to_dict().items() if key != "architectures"}
    save(tmp_path / "source", tensors, BLOCK, key="quantization", config=CONFIG | {"text_config": text})
    table = f"{TABLE}.weight"
    declared = DECLARED | {"weight_names": [name for name in folded if name != table]}
    declaration = {f"{PREFIX}{key}": value for key, value in declared.items()}
    (tmp_path / "source" / "hadamard.json").write_text(json.dumps(declaration))

    write_model(open_model(tmp_path / "source"), tmp_path / "checkpoint")
    out = tmp_path / "out" / "model.onnx"
    export(tmp_path / "checkpoint", out, ExportOptions(logits="all"))

    tokens = np.arange(24)[None] * 7 % 256
    with torch.no_grad():
        wanted = model(torch.from_numpy(tokens)).logits.numpy()
    for with_library in (True, False):
        found = logits(out, tokens, with_library)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-3 * np.abs(wanted).max())  # as of GGUF files


def _adds_one(name: str) -> bool:
    return name.endswith("norm.weight") and "linear_attn" not in name
