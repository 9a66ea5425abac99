"""`--plan`: what a run takes is counted, and its parts are measured on every kind of model that can be calibrated."""

from dataclasses import fields, replace

import pytest
import torch

from calib.config import DataConfig
from calib.machine import Machine
from calib.models.source import empty_model
from calib.plan import plan
from calib.plan_parts import Parts, measure_parts
from calib.plan_shapes import Shapes
from calib.presets import preset
from tests.support.tiny_models import make_model

SHAPES = Shapes(64, 1000, 100_000, (((64, 64),),) * 3)
MACHINE = Machine("test", 1e12, 1e10)
NOTHING = Parts(**dict.fromkeys([field.name for field in fields(Parts)], 0.0))


def small(**e2e):
    """A configuration with numbers that are easy to multiply."""
    config = preset("fast")
    changes = {
        "data": DataConfig(text=("some.txt",), length=100),
        "init": config.init.model_copy(update={"windows": 4}),
        "block": config.block.model_copy(update={"windows": 10, "held_out": 2, "batch": 2, "epochs": 3}),
        "e2e": config.e2e.model_copy(
            update={"steps": 20, "batch": 4, "micro_batch": 2, "held_out": 3, "evaluate_every": 8, **e2e}
        ),
    }
    return config.model_copy(update=changes)


MEASURED = 4 * 3 * 100  # tokens: before all steps, after 8, 16 and 20 of them, 3 windows


@pytest.mark.parametrize(
    ("part", "stage", "count"),
    [
        ("teacher", "init+block", 3 * 12 * 100),
        ("student", "init+block", 3 * (12 + 12 + 2 * 2) * 100),  # also to see inputs, and held-out windows twice
        ("hessian", "init+block", 3 * 4 * 100),
        ("initial", "init+block", 3),
        ("statistics", "init+block", 3 * 2),
        ("reconstruction", "init+block", 3 * 5 * 3),
        ("teacher", "e2e", 3 * (20 * 4 * 100 + MEASURED)),
        ("student", "e2e", 3 * MEASURED),
        ("distillation", "e2e", 3 * 40),
        ("loss", "e2e", 20 * 4 * 100),
        ("loss_forward", "e2e", MEASURED),
    ],
)
def test_every_part_counts_as_often_as_a_run_does_it(part, stage, count):
    config = small(features=0.0, swap=0.0, gradient_checkpointing=False)
    found = plan("some", SHAPES, config, MACHINE, replace(NOTHING, **{part: 0.5}))
    assert found.stages[stage].seconds == pytest.approx(0.5 * count)


def test_recomputed_activations_are_another_pass():
    parts = replace(NOTHING, student=1.0)
    plain, dear = (plan("some", SHAPES, small(gradient_checkpointing=on), MACHINE, parts) for on in (False, True))
    assert dear.stages["e2e"].seconds - plain.stages["e2e"].seconds == 3 * 20 * 4 * 100


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt2", "bloom", "opt"])
def test_parts_of_many_kinds_of_models_are_measured(name, tmp_path):
    config = small()
    model = empty_model(make_model(name, tmp_path / name))
    parts = measure_parts(model, config, "cpu", torch.float32, 1e10)
    zero = {field.name for field in fields(Parts) if not getattr(parts, field.name) > 0}
    assert zero == {"layerwise"}


def test_layer_wise_binarization_is_measured_without_text(tmp_path):
    model = empty_model(make_model("llama", tmp_path / "llama"))
    parts = measure_parts(model, preset("qbb"), "cpu", torch.float32, 1e10)
    assert parts.layerwise > 0
    assert parts.hessian == parts.reconstruction == 0


def test_a_large_vocabulary_costs_what_its_logits_cost():
    config = small()
    few, many = (plan("some", replace(SHAPES, vocabulary=words), config, MACHINE) for words in (1000, 256_000))
    tokens = few.stages["e2e"].tokens
    more = many.stages["e2e"].seconds - few.stages["e2e"].seconds
    assert more > tokens * 6 * 64 * 255_000 / MACHINE.flops
    assert many.stages["init+block"].seconds == few.stages["init+block"].seconds


def test_tables_are_counted(tmp_path):
    config = small()
    asked = config.model_copy(update={"format": config.format.model_copy(update={"embedding_bits": 4})})
    plain, tables = (plan("m", SHAPES, one, MACHINE, replace(NOTHING, student=1.0)).stages for one in (config, asked))
    assert tables["tables"].tokens == 4 * 100
    assert tables["tables"].seconds == pytest.approx(3 * 400, rel=1e-3)
    assert tables["e2e"].memory - plain["e2e"].memory >= 6 * 64 * 1000  # the student's head, and the gradient
    assert plain.keys() == tables.keys() - {"tables"}


@pytest.mark.parametrize(
    ("changes", "measures"),
    [({"bits": 2.5}, True), ({"bits": 3.2, "measured": "a.json"}, False), ({"bits": None, "size": 10**9}, True)],
)
def test_a_budget_has_the_bits_that_were_asked_for_and_is_measured_once(changes, measures):
    form = preset("fast").format.model_copy(update=changes)
    found = plan("some", SHAPES, small().model_copy(update={"format": form}), MACHINE, NOTHING)
    assert found.bits_per_weight == changes["bits"]
    assert (" bits;" in found.table()) is (changes["bits"] is not None)
    assert ("budget" in found.stages) is measures


def test_what_the_model_writes_is_counted():
    """Beside a text half of the windows, alone all of them, and none where it writes none."""
    config = small()
    wanted = 20 * 4 + 3  # of all steps, and those held out
    tokens = {}
    for name, data in {
        "none": DataConfig(text=("a",), length=100),
        "beside": DataConfig(text=("a",), length=100, generate=1000),
        "alone": DataConfig(length=100, generate=1000),
        "few": DataConfig(length=100, generate=7),
        "before": DataConfig(length=100, generated="a"),
    }.items():
        stages = plan("some", SHAPES, config.model_copy(update={"data": data}), MACHINE, NOTHING).stages
        tokens[name] = stages["generate"].tokens if "generate" in stages else 0
    assert tokens == {"none": 0, "beside": 41 * 100, "alone": wanted * 100, "few": 700, "before": 0}
    wide, narrow = (
        plan(
            "m",
            replace(SHAPES, keys=keys),
            config.model_copy(update={"data": DataConfig(generate=64)}),
            MACHINE,
            NOTHING,
        )
        for keys in (1 << 19, 8)  # one sequence in a batch, or all
    )
    read = 4 * SHAPES.parameters / MACHINE.bandwidth  # of all weights, for each token of a batch
    assert wide.stages["generate"].seconds - narrow.stages["generate"].seconds == pytest.approx(63 * 512 * read)
    dear, cheap = (
        plan("m", SHAPES, config.model_copy(update={"data": DataConfig(generate=9)}), MACHINE, parts).stages["generate"]
        for parts in (replace(NOTHING, teacher=1.0), NOTHING)
    )
    assert dear.seconds - cheap.seconds == pytest.approx(3 * 9 * 512)
