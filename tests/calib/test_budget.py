"""The bit budget: the knapsack against every choice, what it counts, what it measures, and runs that are killed."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from calib.__main__ import main
from calib.budget.allocate import Option, allocate, frontier, hull
from calib.budget.few import FORMATS, TOTAL, Choice, allocate_few
from calib.budget.forms import candidates, table_candidates
from calib.config import CalibConfig, DataConfig, FormatConfig, InitConfig
from calib.pipeline import run
from calib.report.record import read_record
from dualbinary import InputError
from dualbinary.checkpoint import read_quantization_config
from dualbinary.files.sizes import parse_size, size_words

SMALL = ("--length", "16", "--generate", "8", "--init-windows", "4", "--device", "cpu", "--quiet")

options = st.lists(
    st.tuples(st.integers(1, 40), st.integers(0, 1000)).map(lambda pair: Option(pair[0], pair[1] / 8)),
    min_size=1,
    max_size=5,
)


def brute_force(units, budget):
    """The least loss of all choices that fit."""
    fitting = (
        sum(option.loss for option in choice)
        for choice in itertools.product(*units)
        if sum(option.cost for option in choice) <= budget
    )
    return min(fitting, default=None)


@given(units=st.lists(options, min_size=1, max_size=5), budget=st.integers(1, 150))
@settings(max_examples=300, deadline=None)
def test_the_choice_fits_and_is_as_near_to_the_best_as_it_says(units, budget):
    best = brute_force(units, budget)
    if best is None:
        with pytest.raises(InputError, match=r"expected .* or more"):
            allocate(units, budget)
        return
    found = allocate(units, budget)
    chosen = [options[index] for options, index in zip(units, found.chosen, strict=True)]
    assert found.cost == sum(option.cost for option in chosen) <= budget
    assert found.loss == pytest.approx(sum(option.loss for option in chosen))
    assert found.bound - 1e-9 <= best <= found.loss + 1e-9
    largest = max(
        (options[a].loss - options[b].loss for options in units for a, b in itertools.pairwise(hull(options))),
        default=0,
    )
    assert found.gap <= largest + 1e-9


def test_small_cases_are_mostly_solved_exactly():
    random = np.random.default_rng(0)
    exact = 0
    for _ in range(200):
        units = [
            [
                Option(int(cost), float(loss))
                for cost, loss in zip(random.integers(1, 30, 4), random.random(4), strict=True)
            ]
            for _ in range(5)
        ]
        budget = sum(min(option.cost for option in unit) for unit in units) + int(random.integers(0, 40))
        best = brute_force(units, budget)
        assert best is not None
        exact += allocate(units, budget).loss <= best + 1e-12
    assert exact >= 180  # 195 of them with this seed


def test_the_frontier_is_what_budgets_reach():
    units = [[Option(1, 8), Option(2, 3), Option(4, 1)], [Option(1, 4), Option(3, 0)]]
    points = list(frontier(units))
    assert points == [(2, 12), (3, 7), (5, 3), (7, 1)]
    for cost, loss in points:
        assert allocate(units, cost).loss == loss


@pytest.mark.parametrize("K", [16, 64, 96, 200, 576, 640, 1536, 2048, 11008])
def test_every_layer_has_formats_of_all_widths_without_padding(K):
    forms = candidates(K)
    assert {form.planes for form in forms} == {1, 2, 3, 4, 5, 6, 8}
    assert len(set(forms)) == len(forms)
    padded = -(-K // 32) * 32
    assert all(padded % form.group_size == 0 for form in forms)


def test_sizes_are_read_as_people_write_them():
    assert [parse_size(text) for text in ("60MB", "1.5 gb", "700KiB", "123")] == [
        60_000_000,
        1_500_000_000,
        716_800,
        123,
    ]
    assert parse_size(size_words(1_234_567)) >= 1_234_567
    with pytest.raises(InputError, match="expected a number of bytes"):
        parse_size("60 apples")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from tests.support.tiny_models import make_model

    return make_model("llama", tmp_path_factory.mktemp("models") / "llama")


def config(**changes) -> CalibConfig:
    form = {"bits": 3.0, **changes.pop("format", {})}
    return CalibConfig(
        stages=("init",),
        format=FormatConfig(**form),
        data=DataConfig(generate=8, length=16),
        init=changes.pop("init", InitConfig(method="fit", windows=8)),
        dtype="float32",
        **changes,
    )


@pytest.fixture(scope="module")
def budgeted(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("budget") / "out"
    record = run(model, out, config()).record
    return out, record


def stored_bits(out: Path) -> float:
    """Bits a weight of the planes and scales in a checkpoint, without those of tables."""
    quantization = read_quantization_config(out)
    tensors = load_file(out / "model.safetensors")
    layers = [name.removesuffix(".planes") for name in tensors if name.endswith("_proj.planes")]
    bits = sum(8 * tensors[f"{name}.{key}"].nbytes for name in layers for key in ("planes", "scales"))
    config = json.loads((out / "config.json").read_text())
    assert quantization is not None
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    K = {name: inner if name.endswith("down_proj") else hidden for name in layers}
    K |= {name: tensors[f"{name}.planes"].shape[1] for name in layers if name.endswith("o_proj")}
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    K |= {name: head * config["num_attention_heads"] for name in layers if name.endswith("o_proj")}
    return bits / sum(tensors[f"{name}.planes"].shape[1] * K[name] for name in layers)


def test_a_run_spends_the_bits_it_is_given(budgeted):
    out, record = budgeted
    assert stored_bits(out) == pytest.approx(record["model"]["bits_per_weight"])
    assert 2.8 < record["model"]["bits_per_weight"] <= 3.0
    assert record["budget"]["bits_per_weight"] == pytest.approx(record["model"]["bits_per_weight"])
    assert len({one["format"] for one in record["model"]["formats"].values()}) > 1
    assert read_record(out)["budget"]["gap"] >= 0


def test_training_goes_on_in_the_formats_of_the_budget(budgeted, model, tmp_path):
    out, trained = budgeted[0], tmp_path / "trained"
    steps = ("--e2e-steps", "2", "--e2e-held-out", "2", "--e2e-evaluate-every", "2", "--stages", "e2e")
    assert main([str(model), str(trained), *SMALL, "--start", str(out), *steps]) == 0
    first, second = (read_record(path)["model"] for path in (out, trained))
    assert second["formats"] == first["formats"]
    assert stored_bits(trained) == pytest.approx(stored_bits(out))


def test_layers_that_read_one_value_have_one_format(budgeted):
    _, record = budgeted
    formats = {name: one["format"] for name, one in record["model"]["formats"].items()}
    for unit in record["budget"]["units"]:
        assert len({formats[name] for name in unit["modules"]}) == 1
    assert any(len(unit["modules"]) == 3 for unit in record["budget"]["units"])


def test_more_bits_never_cost_more_loss(budgeted):
    _, record = budgeted
    losses = [loss for _, loss in record["budget"]["frontier"]]
    assert losses == sorted(losses, reverse=True)


def test_the_record_repeats_the_run_without_measuring(budgeted, model, tmp_path):
    out, record = budgeted
    again = run(model, tmp_path / "again", CalibConfig.from_json(record["config"], "test"))
    assert "budget" not in again.record
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_a_killed_run_ends_with_the_same_bytes(budgeted, model, tmp_path):
    class Killed(BaseException):
        pass

    def kill(stage, done, total, **_):
        if stage == "sensitivity" and done > total // 2:
            raise Killed

    out = tmp_path / "out"
    with pytest.raises(Killed):
        run(model, out, config(), progress=kill)
    assert list(out.with_name("out.work").glob("sensitivity-*"))
    run(model, out, config())
    assert (out / "model.safetensors").read_bytes() == (budgeted[0] / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def pinned(model, tmp_path_factory):
    """The record of a run with a format for some layers, and a start that feeds errors back."""
    form = {"override": ("*.down_proj:planes=4,group_size=32,levels=even,offset=false",)}
    feeding_back = InitConfig(windows=8, refits=0, polishes=0)
    return run(model, tmp_path_factory.mktemp("pinned") / "out", config(format=form, init=feeding_back)).record


def test_an_override_keeps_its_layers_out_of_the_choice(pinned):
    record, formats = pinned, pinned["model"]["formats"]
    down = {one["format"] for name, one in formats.items() if name.endswith("down_proj")}
    assert down == {"4 planes, G=32, even levels, zero 7.5, float16 scales"}
    assert record["model"]["bits_per_weight"] <= 3.0


def test_a_size_counts_the_tables_too(budgeted, model, tmp_path):
    little = {"bits": 1.7, "measured": str(budgeted[0] / "calibration.json")}
    smallest = run(model, tmp_path / "small", config(format=little)).record["budget"]["bytes"]
    size = 3 * smallest
    out = tmp_path / "out"
    record = run(model, out, config(format={"bits": None, "size": size})).record
    tensors = load_file(out / "model.safetensors")
    stored = sum(t.nbytes for name, t in tensors.items() if name.endswith((".planes", ".scales")))
    assert stored <= record["budget"]["bytes"] <= size  # each tensor from the beginning of a page on
    assert len({table["format"] for table in record["tables"]}) == 1


def test_the_fit_without_data_is_measured_as_such(budgeted, pinned):
    units = [record["budget"]["units"] for record in (budgeted[1], pinned)]
    fitted, feeding_back = ({tuple(unit["modules"]): unit["losses"] for unit in one} for one in units)
    chosen = [modules for modules, losses in feeding_back.items() if len(losses) > 1]
    assert chosen
    assert all(fitted[modules] != feeding_back[modules] for modules in chosen)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bits", "1.1"], r"a budget of 1.1 bits: expected 1\.\d+ or more"),
        (["--size", "1kB"], r"a budget of 1000 bytes: expected \d\.\d+MB or more"),
        (["--bits", "3", "--size", "1MB"], "expected no --bits beside it"),
        (["--bits", "3", "--method", "qbb"], "belongs to --method fdb"),
        (["--size", "heavy"], "expected a number of bytes"),
    ],
)
def test_budgets_that_cannot_be_are_one_clear_error(arguments, message, model, tmp_path, capsys):
    assert main([str(model), str(tmp_path / "out"), *SMALL, "--stages", "init", *arguments]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert re.search(message, error), error


def test_table_formats_are_those_that_a_run_stores():
    assert [bits for bits, _ in table_candidates(64)] == [2, 3, 4, 8]
    assert all(form.scale_dtype == np.uint8 for _, form in table_candidates(64))
    assert torch.tensor([form.row_bits(64) for _, form in table_candidates(64)]).diff().min() > 0


def test_what_was_measured_serves_other_budgets(budgeted, model, tmp_path):
    out, first = budgeted
    form = {"bits": 2.0, "measured": str(out / "calibration.json")}
    told = []
    second = run(
        model, tmp_path / "out", config(format=form), progress=lambda stage, *_, **__: told.append(stage)
    ).record
    assert "sensitivity" not in told
    losses = [[unit["losses"] for unit in record["budget"]["units"]] for record in (first, second)]
    assert losses[0] == losses[1]
    assert second["model"]["bits_per_weight"] <= 2.0


def test_measures_of_another_model_are_refused(budgeted, tiny_model, tmp_path):
    form = {"bits": 2.5, "measured": str(budgeted[0] / "calibration.json")}
    with pytest.raises(InputError, match=r"--measured .* leave it out to measure anew"):
        run(tiny_model("gemma3_text"), tmp_path / "out", config(format=form))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": {"rotate": 32}}, "with --rotate 32, as this run has it, got None"),
        ({"init": InitConfig(windows=8)}, "with --init-method error-feedback, as this run has it, got"),
    ],
)
def test_measures_of_another_basis_or_fit_are_refused(budgeted, model, tmp_path, changes, message):
    form = {"bits": 2.5, "measured": str(budgeted[0] / "calibration.json"), **changes.get("format", {})}
    asked = config(format=form).model_copy(update={name: value for name, value in changes.items() if name != "format"})
    with pytest.raises(InputError, match=message):
        run(model, tmp_path / "out", asked)


def test_the_report_tells_of_the_budget(budgeted, capsys):
    out, record = budgeted
    page = out.parent / "report.html"
    assert main(["report", str(out), "--html", str(page)]) == 0
    assert f"layers at {record['budget']['bits_per_weight']:.3f} bits" in capsys.readouterr().out
    assert "The KL divergence" not in page.read_text() and "the frontier" in page.read_text()


def test_a_choice_has_few_formats():
    random = np.random.default_rng(1)
    choices = [
        Choice((f"{block}.{place}",), 1000, candidates(576), _falling(random, len(candidates(576))), place)
        for block in range(12)
        for place in range(4)
    ]
    budget = 48 * 3000
    found = allocate_few(choices, budget)
    forms = [choice.forms[option] for choice, option in zip(choices, found.chosen, strict=True)]
    by_place = [
        {form for choice, form in zip(choices, forms, strict=True) if choice.place == place} for place in range(4)
    ]
    assert max(map(len, by_place)) <= FORMATS
    assert len(set(forms)) <= TOTAL
    assert found.cost <= budget
    assert found.loss < 1.5 * allocate([choice.options for choice in choices], budget).loss


def _falling(random, count):
    """Options of as many costs, the dearer the better, by chance."""
    scale = random.lognormal(0, 2)
    return [
        Option(int(1000 * bits), float(scale * 4.0**-bits * random.uniform(0.8, 1.2)))
        for bits in np.linspace(1.3, 8, count)
    ]


def test_a_plan_counts_the_measuring(model, tmp_path, capsys):
    arguments = [
        str(model),
        str(tmp_path / "out"),
        *SMALL[:-1],
        "--preset",
        "quick",
        "--bits",
        "3.3",
        "--plan",
        "--json",
    ]
    assert main(arguments) == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    assert list(stages) == ["generate", "budget", "init+block"]
    assert stages["budget"]["seconds"] > 0
    assert not (tmp_path / "out.work").exists()
