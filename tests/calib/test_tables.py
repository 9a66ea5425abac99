"""Vocabulary tables of the student: chosen in the metric of the head, trained with the layers, stored and read back."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from calib.__main__ import main
from calib.config import BlockConfig, CalibConfig, DataConfig, DistillConfig, FormatConfig, InitConfig
from calib.layers import full_precision
from calib.loss_weights import LossWeights
from calib.losses import kl_divergence
from calib.models.stored_checkpoint import StoredCheckpoint
from calib.models.tables import attach_table, table_places
from calib.pipeline import run
from calib.report.record import read_record
from calib.report.summary import sentences
from calib.stages.objective import DistillationObjective
from calib.weight_init.data_free import closed_form
from dualbinary import InputError
from dualbinary.checkpoint import load_module, read_quantization_config, stored_tensors
from dualbinary.contract.weight import EACH_GROUP, PlaneFormat
from exporter.__main__ import main as exporter_main
from tests.support.fitted_layers import fitted
from tests.support.tiny_models import VOCABULARY

FORM = PlaneFormat(3, 32, levels="even", zero=EACH_GROUP)
NAMES = {"llama": ["model.embed_tokens", "lm_head"], "llama_tied": ["model.embed_tokens"]}


def config(**changes) -> CalibConfig:
    values = {
        "format": FormatConfig(planes=2, group_size=64, embedding_bits=3),
        "data": DataConfig(generate=12, length=16),
        "init": InitConfig(method="activation", windows=4, refits=0, polishes=0),
        "block": BlockConfig(windows=6, held_out=3, batch=2),
        "e2e": DistillConfig(steps=4, held_out=3, evaluate_every=2, scale_rate=0.003),
        "dtype": "float32",
    }
    return CalibConfig(**{**values, **changes})


def table_weight(place):
    """The full-precision weight of a table, float32."""
    (weight,) = place.module.parameters()
    return weight.detach().float()


def with_tables(directory):
    """A loaded model with planes fitted without data, those of its tables among them."""
    source = fitted(directory, PlaneFormat(2, 64, offset=True))
    for place in table_places(source):
        state = closed_form(table_weight(place), FORM, place.name)
        attach_table(source, place, FORM, state.planes, state.scales)
    return source


@pytest.fixture(scope="module")
def whole_run(tiny_model, tmp_path_factory):
    """The checkpoint of a whole run by the name of its model."""

    @cache
    def get(name):
        out = tmp_path_factory.mktemp(name) / "out"
        run(tiny_model(name), out, config())
        return out

    return get


@pytest.fixture(params=list(NAMES))
def finished(request, whole_run):
    """Name of a model, and the checkpoint of a whole run."""
    return request.param, whole_run(request.param)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_a_plain_student(tiny_model, random_tokens, name):
    source, window = with_tables(tiny_model(name)), random_tokens(1, 12)
    for layer in (*source.linears.values(), *source.tables):
        layer.scales.requires_grad_()
    objective = DistillationObjective(source, LossWeights(), "cpu", torch.float32)
    loss = objective.losses(window, factor=2.0)["kl"]
    found = [torch.clone(table.scales.grad) for table in source.tables if table.scales.grad is not None]

    with torch.no_grad(), full_precision(source.model):
        teacher = source.model(input_ids=window, use_cache=False).logits[0, :-1]
    weights = [table.quantized_weight() for table in source.tables]
    embeds = functional.embedding(window, weights[0])
    hidden = source.model.base_model(inputs_embeds=embeds, use_cache=False).last_hidden_state[0, :-1]
    plain = kl_divergence(teacher, hidden @ weights[-1].T).mean()
    wanted = torch.autograd.grad(2.0 * plain, [table.scales for table in source.tables])

    assert loss == pytest.approx(plain.item(), rel=1e-4)
    for mine, other in zip(found, wanted, strict=True):  # float32 sums in other orders
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4 * other.abs().max().item())


@pytest.mark.parametrize("name", NAMES)
def test_the_teacher_keeps_its_tables_and_the_student_has_its_own(tiny_model, random_tokens, name):
    plain, source, tokens = (
        fitted(tiny_model(name), PlaneFormat(2, 64, offset=True)),
        with_tables(tiny_model(name)),
        random_tokens(1, 8),
    )
    with torch.no_grad():
        with full_precision(plain.model), full_precision(source.model):
            torch.testing.assert_close(source.model(tokens).logits, plain.model(tokens).logits, rtol=0, atol=0)
        table = source.tables[-1]
        hidden = source.model.base_model(tokens).last_hidden_state
        logits = source.model(tokens).logits
        assert torch.equal(logits, hidden @ table.quantized_weight().T)
        assert not torch.equal(logits, plain.model(tokens).logits)
        ids = torch.arange(VOCABULARY)
        assert torch.equal(source.model.get_input_embeddings()(ids), source.tables[0].quantized_weight())


def test_the_checkpoint_holds_the_tables(tiny_model, finished):
    name, out = finished
    stored, tensors = read_quantization_config(out), stored_tensors(out)
    assert stored is not None
    assert not set(NAMES[name]) & set(stored.modules_to_not_convert)
    original = load_file(tiny_model(name) / "model.safetensors")
    for module, row in zip(NAMES[name], read_record(out)["tables"], strict=True):
        assert stored.format_of(module) == FORM
        weight = original[f"{module}.weight"].numpy()
        found = load_module(tensors, module, len(weight), weight.shape[1], FORM).dequantize()
        assert row["name"] == module
        assert row["bits_per_weight"] == FORM.row_bits(weight.shape[1]) / weight.shape[1]
        assert 0 < np.square(found - weight).sum() / np.square(weight).sum() < 0.1
    words = [line for line in sentences(read_record(out)) if line.startswith("vocabulary table")]
    assert len(words) == len(NAMES[name])


def test_scales_of_tables_learn(finished, tiny_model, tmp_path):
    name, out = finished
    made = next(out.parent.glob("*.generated.safetensors"))
    (tmp_path / made.name).write_bytes(made.read_bytes())
    stopped = config(stages=("init", "block"))
    run(tiny_model(name), tmp_path / "out", stopped)
    before, after = (load_file(one / "model.safetensors") for one in (tmp_path / "out", out))
    best = json.loads((out / "calibration.json").read_text())["e2e"]["best_step"]
    for module in NAMES[name]:
        assert torch.equal(before[f"{module}.planes"], after[f"{module}.planes"])
        assert torch.equal(before[f"{module}.scales"], after[f"{module}.scales"]) == (best == 0)


def test_the_export_is_the_dequantized_checkpoint(finished, tmp_path):
    words = [str(finished[1]), str(tmp_path / "model.onnx"), "--check", "--scale-bits", "8", "--quiet"]
    assert exporter_main(words) == 0
    report = json.loads((tmp_path / "export_report.json").read_text())
    assert [(row["bits"], row["stored"]) for row in report["tables"]] == [(3, True)] * len(NAMES[finished[0]])


class Killed(BaseException):
    """Ends a run as a signal would."""


@pytest.mark.parametrize(
    ("finished", "stage"),
    [
        ("llama", "tables"),
        ("llama_tied", "e2e"),
        pytest.param("llama", "e2e", marks=pytest.mark.slow),
        pytest.param("llama_tied", "tables", marks=pytest.mark.slow),
    ],
    indirect=["finished"],
)
def test_goes_on_after_a_kill_to_the_same_bytes(tiny_model, finished, tmp_path, stage):
    name, out = finished
    calls = 0

    def progress(where, *_, **__):
        nonlocal calls
        calls += where == stage
        if calls == 4:
            raise Killed

    made = next(out.parent.glob("*.generated.safetensors"))
    (tmp_path / made.name).write_bytes(made.read_bytes())
    with pytest.raises(Killed):
        run(tiny_model(name), tmp_path / "out", config(), progress=progress)
    run(tiny_model(name), tmp_path / "out", config())
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "out" / file).read_bytes() == (out / file).read_bytes()


def test_tables_of_a_checkpoint_to_start_from_stay(tiny_model, finished, tmp_path):
    name, out = finished
    words = [str(tiny_model(name)), str(tmp_path / "out"), "--start", str(out), "--generate", "12", "--length", "16"]
    words += ["--stages", "e2e", "--e2e-steps", "1", "--e2e-held-out", "0", "--e2e-scale-rate", "0", "--quiet"]
    assert main(words) == 0
    before, after = (load_file(one / "model.safetensors") for one in (out, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())


def test_another_number_of_bits_makes_the_tables_anew(tiny_model, finished, tmp_path):
    name, out = finished
    words = [str(tiny_model(name)), str(tmp_path / "out"), "--start", str(out), "--generate", "12", "--length", "16"]
    assert main([*words, "--stages", "e2e", "--e2e-steps", "1", "--embedding-bits", "8", "--quiet"]) == 0
    stored = read_quantization_config(tmp_path / "out")
    assert stored is not None
    assert {stored.format_of(module).planes for module in NAMES[name]} == {8}
    assert stored.plane_format == PlaneFormat(2, 64, offset=True)


def test_a_checkpoint_is_put_back_with_its_tables(tiny_model, finished, random_tokens):
    name, out = finished
    source = fitted(tiny_model(name), PlaneFormat(2, 64))
    for _ in range(2):  # the second in the place of the first
        StoredCheckpoint(out).apply(source)
        assert [table.name for table in source.tables] == NAMES[name]
    stored = stored_tensors(out)
    for table in source.tables:
        wanted = load_module(stored, table.name, len(table.weight), table.weight.shape[1], FORM).dequantize()
        np.testing.assert_allclose(table.whole(torch.float32).numpy(), wanted, rtol=2**-22)  # a float32 product


def test_bases_of_qbb_have_tables_too(tiny_model, tmp_path):
    words = [str(tiny_model("llama_tied")), str(tmp_path / "out"), "--method", "qbb", "--generate", "8"]
    words += ["--length", "16", "--stages", "init,layer", "--embedding-bits", "4", "--init-windows", "4", "--quiet"]
    assert main(words) == 0
    stored = read_quantization_config(tmp_path / "out")
    assert stored is not None
    assert stored.plane_format.symmetric
    assert stored.format_of("model.embed_tokens").even


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--generate", "8", "--e2e-dad", "1"], "--e2e-dad: expected 0 with --embedding-bits"),
        (["--stages", "init", "--init-method", "fit", "--generate", "0"], "no data to calibrate with; give --text"),
    ],
    ids=["dad", "no text"],
)
def test_what_tables_cannot_do_is_named(tiny_model, tmp_path, capsys, words, message):
    code = main([str(tiny_model("llama")), str(tmp_path / "out"), "--embedding-bits", "4", "--quiet", *words])
    assert code == 2
    assert message in capsys.readouterr().err


def test_an_embedding_of_another_kind_is_refused(tiny_model, monkeypatch):
    source = fitted(tiny_model("llama"), PlaneFormat(2, 64))
    (place, _) = table_places(source)
    monkeypatch.setattr(type(place.module), "forward", lambda self, ids: functional.embedding(ids, self.weight) + 1)
    state = closed_form(table_weight(place), FORM, place.name)
    with pytest.raises(InputError, match=r"is more than rows of a table; leave out --embedding-bits"):
        attach_table(source, place, FORM, state.planes, state.scales)
