"""A checkpoint as a directory of GPTQ v2: the reader of such directories finds the weights of the checkpoint."""

import json

import numpy as np
import pytest

from dualbinary.contract.weight import EACH_GROUP, PlaneFormat
from dualbinary.files.json_objects import read_json_object
from importer.checkpoint import write_model
from importer.convert.__main__ import main
from importer.convert.checkpoint_source import open_checkpoint
from importer.readers import open_model
from importer.readers.words import dense, pack_dense
from tests.support.foreign_directories import dequantized
from tests.support.low_bit_models import even_numbers, low_bit_model
from tests.support.quantized_checkpoints import quantize
from tests.support.tiny_models import make_model

FORMS = {
    "q_proj": PlaneFormat(4, 32, levels="even", zero=8),
    "k_proj": PlaneFormat(2, 32, levels="even", zero=EACH_GROUP),
    "v_proj": PlaneFormat(2, 32, levels="even", zero=1.5),
    "o_proj": PlaneFormat(3, -1, levels="even", zero=EACH_GROUP),
    "gate_proj": PlaneFormat(8, 32, levels="even", zero=128),
    "up_proj": PlaneFormat(4, 32, levels="even", zero=7.5),
    "down_proj": PlaneFormat(1, 32, levels="even", zero=0.5),
}
WIDTHS = {"q_proj": 4, "k_proj": 2, "v_proj": 3, "o_proj": 3, "gate_proj": 8, "up_proj": 8, "down_proj": 2}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make_model("llama", tmp_path_factory.mktemp("llama") / "model")


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_packed_words_are_read_as_they_were(bits):
    values = np.random.default_rng(bits).integers(0, 1 << bits, (3, 96))
    assert np.array_equal(dense(pack_dense(values, bits), bits, 96), values)


def test_every_form_comes_back_to_the_bit(llama, tmp_path, capsys):
    overrides = {f"model.layers.{layer}.{part}": form for layer in range(2) for part, form in _parts(FORMS)}
    quantize(llama, tmp_path / "checkpoint", form=FORMS["q_proj"], overrides=overrides)
    assert main([str(tmp_path / "checkpoint"), str(tmp_path / "gptq"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["format"] == "gptq_v2"
    opened, own = open_model(tmp_path / "gptq"), open_checkpoint(tmp_path / "checkpoint")
    assert opened.format == "gptq"
    assert opened.weights.keys() == own.weights.keys()
    for module, weight in opened.weights.items():
        assert weight.bits == WIDTHS[module.rpartition(".")[2]], module
        form, expected = own.weights[module].read().format, own.weights[module].read().dequantize()
        # Half a step that is among float16's smallest numbers loses a bit, and is multiplied by up to 255.
        most = 0 if form.zero == EACH_GROUP or float(form.zero).is_integer() else 255 * 2.0**-25
        assert np.abs(dequantized(weight, np.float64) - expected).max() <= most, module
    for name, tensor in own.tensors.items():
        assert np.array_equal(opened.tensors[name].read(), tensor.read()), name


def test_inputs_in_another_order_keep_their_groups(llama, tmp_path):
    def shuffled(rng, N, K):
        return even_numbers(rng, N, K, order=True)

    write_model(low_bit_model(llama, {"down_proj": shuffled}), tmp_path / "checkpoint")
    assert main([str(tmp_path / "checkpoint"), str(tmp_path / "gptq")]) == 0
    opened, own = open_model(tmp_path / "gptq"), open_checkpoint(tmp_path / "checkpoint")
    seen = 0
    for module, weight in opened.weights.items():
        order = own.weights[module].read_order()
        expected = own.weights[module].read().dequantize()
        if order is not None:
            expected = expected[:, np.argsort(order)]
            seen += 1
        assert np.array_equal(dequantized(weight, np.float64), expected), module
    assert seen
    assert main([str(tmp_path / "checkpoint"), str(tmp_path / "out.gguf"), "--quiet"]) == 2


def test_layers_and_tables_of_other_kinds(llama, tmp_path, capsys):
    table = PlaneFormat(8, 32, levels="even", zero=128)
    skip = ("model.layers.0.mlp.up_proj",)
    quantize(llama, tmp_path / "checkpoint", form=FORMS["q_proj"], skip=skip, tables={"model.embed_tokens": table})
    assert main([str(tmp_path / "checkpoint"), str(tmp_path / "gptq")]) == 0
    assert "written as plain numbers, rounded by" in capsys.readouterr().err
    block = read_json_object(tmp_path / "gptq" / "config.json")["quantization_config"]
    assert block["dynamic"] == {r"-:^model\.layers\.0\.mlp\.up_proj$": {}}
    opened, own = open_model(tmp_path / "gptq"), open_checkpoint(tmp_path / "checkpoint")
    values = own.weights["model.embed_tokens"].read().dequantize()
    got = opened.tensors["model.embed_tokens.weight"].read().astype(np.float64)
    assert np.all(np.abs(got - values) <= 2.0**-11 * np.abs(values))


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (PlaneFormat(2, 32), "and GPTQ holds only levels s·(q - z) with a whole z; they are not evenly spaced"),
        (PlaneFormat(4, 32, True, levels="even"), "its offsets are no whole numbers of steps"),
        (PlaneFormat(8, 32, levels="even", zero=127.5), "numbers up to 510; GPTQ holds up to 8 bits"),
    ],
)
def test_what_gptq_cannot_hold_is_one_sentence(form, message, llama, tmp_path, capsys):
    quantize(llama, tmp_path / "checkpoint", form=form)
    assert main([str(tmp_path / "checkpoint"), str(tmp_path / "gptq")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "gptq").exists()


def _parts(forms):
    for part, form in forms.items():
        yield f"{'self_attn' if part[0] in 'qkvo' else 'mlp'}.{part}", form
