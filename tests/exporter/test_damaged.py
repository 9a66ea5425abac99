"""Whatever is wrong with a model directory is said in one line, before anything is written."""

import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from dualbinary import InputError
from exporter.__main__ import main
from exporter.options import ExportOptions
from exporter.pipeline import export
from tests.support.tiny_models import edit_config

WEIGHTS = "model.safetensors"


def truncate(model_dir):
    path = model_dir / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1000])


def cut_header(model_dir):
    (model_dir / WEIGHTS).write_bytes(struct.pack("<Q", 1 << 40) + b"{}")


def rewrite(model_dir, change):
    tensors = load_file(model_dir / WEIGHTS)
    change(tensors)
    save_file(tensors, model_dir / WEIGHTS, metadata={"format": "pt"})


def remove_tensor(model_dir):
    rewrite(model_dir, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))


def add_tensor(model_dir):
    rewrite(model_dir, lambda tensors: tensors.update({"model.layers.0.adapter.weight": torch.zeros(4, 4)}))


def reshape_tensor(model_dir):
    name = "model.layers.0.mlp.up_proj.weight"
    rewrite(model_dir, lambda tensors: tensors.update({name: tensors[name][:-1].contiguous()}))


def infinite_weight(model_dir):
    rewrite(model_dir, lambda tensors: tensors["model.layers.0.mlp.up_proj.weight"].fill_(float("inf")))


def infinite_embedding(model_dir):
    rewrite(model_dir, lambda tensors: tensors["model.embed_tokens.weight"].fill_(float("nan")))


def huge_weight(model_dir):
    rewrite(model_dir, lambda tensors: tensors["model.layers.0.mlp.up_proj.weight"].mul_(1e9))


def only_pickle(model_dir):
    (model_dir / WEIGHTS).rename(model_dir / "pytorch_model.bin")


def no_weights(model_dir):
    (model_dir / WEIGHTS).unlink()


def no_config(model_dir):
    (model_dir / "config.json").unlink()


def broken_config(model_dir):
    (model_dir / "config.json").write_text('{"model_type": ')


def escaping_index(model_dir):
    (model_dir / WEIGHTS).unlink()
    weight_map = {"model.norm.weight": "../elsewhere/model.safetensors"}
    (model_dir / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def missing_shard(model_dir):
    (model_dir / WEIGHTS).unlink()
    weight_map = {"model.norm.weight": "model-00001-of-00002.safetensors"}
    (model_dir / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def unknown_type(model_dir):
    edit_config(model_dir, model_type="lamma")


def text_and_images(model_dir):
    edit_config(model_dir, model_type="qwen3_5", text_config={"model_type": "qwen3_5_text"})


def encoder_type(model_dir):
    edit_config(model_dir, model_type="bert")


def no_type(model_dir):
    edit_config(model_dir, model_type=None)


def wrong_width(model_dir):
    edit_config(model_dir, intermediate_size=192)


def impossible_heads(model_dir):
    edit_config(model_dir, num_attention_heads=0)


def negative_layers(model_dir):
    edit_config(model_dir, num_hidden_layers=-3)


def more_layers(model_dir):
    edit_config(model_dir, num_hidden_layers=3)


def fewer_layers(model_dir):
    edit_config(model_dir, num_hidden_layers=1)


def broken_generation_config(model_dir):
    (model_dir / "generation_config.json").write_text("[1, 2]")


def broken_tokenizer_config(model_dir):
    (model_dir / "tokenizer_config.json").write_text('{"tokenizer_class"')


def infinite_norm(model_dir):
    rewrite(model_dir, lambda tensors: tensors["model.norm.weight"].fill_(float("nan")))


def integer_weight(model_dir):
    name = "model.layers.0.mlp.up_proj.weight"
    rewrite(model_dir, lambda tensors: tensors.update({name: tensors[name].to(torch.int8)}))


def other_head(model_dir):
    edit_config(model_dir, tie_word_embeddings=True)


def nan_epsilon(model_dir):
    path = model_dir / "config.json"
    path.write_text(path.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": NaN'))


def endless_context(model_dir):
    edit_config(model_dir, max_position_embeddings=1 << 30)


DAMAGES = {
    infinite_norm: r"model\.norm\.weight: holds a value that is not finite",
    integer_weight: r"up_proj\.weight: expected a floating-point tensor",
    other_head: r"lm_head\.weight: config\.json ties it to the embedding, but the file holds another",
    nan_epsilon: "rms_norm_eps is not a number",
    endless_context: "max_position_embeddings must be 1 to",
    broken_generation_config: r"generation_config\.json: expected a JSON object, got list",
    broken_tokenizer_config: r"tokenizer_config\.json: not valid JSON",
    truncate: "not a whole safetensors file",
    cut_header: "not a whole safetensors file",
    remove_tensor: r"no tensor for model\.layers\.1\.mlp\.up_proj\.weight",
    add_tensor: r"model\.layers\.0\.adapter\.weight has no place",
    reshape_tensor: r"up_proj\.weight: config\.json asks for shape \[160, 128\], the file has \[159, 128\]",
    infinite_weight: r"up_proj\.weight.*finite",
    infinite_embedding: r"embed_tokens\.weight: holds a value that is not finite",
    huge_weight: r"up_proj\.weight.*at most 65504.*--scale-bits 32",
    only_pickle: "pytorch_model.bin, no safetensors. Such files can run code",
    no_weights: "model.safetensors: missing",
    no_config: r"config\.json: missing",
    broken_config: r"config\.json: not valid JSON",
    escaping_index: "is not the name of a safetensors file",
    missing_shard: "model-00001-of-00002.safetensors: missing",
    unknown_type: "'lamma' is not one that the graph builder knows",
    encoder_type: "'bert' is built for",
    text_and_images: "The qwen3_5_text inside it can: give a directory of that alone, or a GGUF file",
    no_type: "no model_type",
    wrong_width: r"config\.json asks for shape \[192, 128\]",
    impossible_heads: "transformers .* refuses it: ZeroDivisionError",
    negative_layers: "num_hidden_layers must be 1 to",
    more_layers: r"no tensor for model\.layers\.2",
    fewer_layers: r"model\.layers\.1\..* has no place",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_directory_is_refused_and_nothing_is_left(tiny_model, tmp_path, damage):
    model_dir = tiny_model("llama")
    damage(model_dir)
    out = tmp_path / "new" / "folder" / "model.onnx"

    with pytest.raises(InputError, match=DAMAGES[damage]):
        export(model_dir, out, ExportOptions())

    assert not (tmp_path / "new").exists()


def test_command_says_one_line_and_exits_with_2(tiny_model, tmp_path, capfd):
    model_dir = tiny_model("llama")
    truncate(model_dir)
    capfd.readouterr()  # what making the model said

    code = main([str(model_dir), str(tmp_path / "out" / "model.onnx")])

    assert code == 2
    errors = capfd.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert WEIGHTS in errors[0]


def test_debug_shows_the_traceback(tmp_path, capfd):
    code = main([str(tmp_path / "nowhere"), str(tmp_path / "out" / "model.onnx"), "--debug"])

    assert code == 2
    assert "Traceback" in capfd.readouterr().err


def test_remote_code_is_never_run(tiny_model, tmp_path):
    model_dir = tiny_model("llama")
    (model_dir / "evil.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')\n")
    edit_config(model_dir, auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})

    export(model_dir, tmp_path / "out" / "model.onnx", ExportOptions())

    assert not (tmp_path / "owned").exists()
