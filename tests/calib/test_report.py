"""The record of a run, and what reports make of it: sums, operations, tables and pages."""

import copy
import json
import re
import sys

import numpy as np
import pytest
import torch

from calib.measure import layer_statistics
from calib.models.stored_checkpoint import StoredCheckpoint
from calib.report.command import main
from calib.report.page import page
from calib.report.record import RECORD_FILE, read_record, write_record
from calib.report.summary import flops, sentences, totals
from dualbinary import InputError, unpack_planes
from dualbinary.contract.weight import PlaneWeight
from dualbinary.metrics.statistics import PAPER_PROMPT_TOKENS, paper_flops, weight_statistics
from tests.support.report_run import FORMAT, HIDDEN, VOCABULARY, Page, Run

HOSTILE = '</table><script>alert("1")</script>&amp;$\\frac{\x1b[31m'


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("report") / "llama")


@pytest.fixture(scope="module")
def record(run):
    return run.record


@pytest.fixture
def checkpoint(run, tmp_path):
    return run.save(tmp_path / "out")


def layer_names(record):
    return [name for block in record["blocks"] for name in block["layers"]]


# The record


def test_a_record_comes_back_as_it_was_written(record, checkpoint):
    assert read_record(checkpoint) == json.loads(json.dumps(record))
    changed = {**record, "data": None, "e2e": None}
    write_record(checkpoint / RECORD_FILE, changed)
    assert read_record(checkpoint) == json.loads(json.dumps(changed))
    assert not list(checkpoint.glob("*.new"))


def filtered(**changes):
    """What a record says of a filter that kept two of three sequences."""
    value = {"by": "discrepancy", "candidates": 3, "chosen": [0, 2], "scores": [0.9, 0.6, 0.8]}
    return {**value, "distinct": [0.25, 0.5, 0.75], "sequences": "00", **changes}


def first_figures(value):
    return next(iter(next(iter(value["blocks"][0]["layers"].values())).values()))


DAMAGES = {
    "version 2 is newer than 1, the newest that this release reads; upgrade dualbinary": lambda value: value.update(
        version=2
    ),
    "model": lambda value: value.pop("model"),
    "config": lambda value: value["config"].update(format={"planes": 9}),
    "blocks": lambda value: value.update(blocks=[]),
    "one layer in all": lambda value: [block["layers"].clear() for block in value["blocks"]],
    "in two of them": lambda value: value["blocks"].append(value["blocks"][0]),
    "polish": lambda value: next(iter(value["blocks"][0]["layers"].values())).update(polish={}),
    "weight_error": lambda value: first_figures(value).update(weight_error="0.5"),
    "density": lambda value: first_figures(value).update(density=[1.5, 0.1]),
    "level_shares": lambda value: first_figures(value).update(level_shares=[1.0]),
    "corr_paths": lambda value: first_figures(value).update(corr_paths=[0.1, 0.2]),
    "planes": lambda value: first_figures(value).update(
        density=[0.5], level_shares=[0.5, 0.5], corr_paths=[], corr_residual=[]
    ),
    "filter: scores": lambda value: value.update(filter=filtered(scores=[0.5])),
    "filter: chosen": lambda value: value.update(filter=filtered(chosen=[3])),
    "e2e.curve": lambda value: value["e2e"]["curve"][0].update(tokens=-1),
    "finite": lambda value: value["model"].update(bits_per_weight=float("nan")),
    "seconds": lambda value: value["seconds"].update(data=10**400),
    "hidden": lambda value: value["model"].update(hidden=10**300),
    "error_before": lambda value: value["blocks"][0].update(error_before=1e300),
    "hex escape": lambda value: value["model"].update(name="\ud800"),  # no text that a file could hold
}


@pytest.mark.parametrize("named", DAMAGES)
def test_a_damaged_record_is_one_line_of_error(named, record, tmp_path, capsys):
    value = copy.deepcopy(record)
    DAMAGES[named](value)
    (tmp_path / RECORD_FILE).write_text(json.dumps(value))
    with pytest.raises(InputError, match=named):
        read_record(tmp_path)
    assert main([str(tmp_path), "--html"]) == 2
    assert re.fullmatch(r"error: .*calibration\.json.*\n", capsys.readouterr().err)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("text", ["", "[]", "{", "\0", "[" * 100_000, '{"version": Infinity}'])
def test_what_is_no_record_at_all_is_one_line_of_error(text, tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    (tmp_path / RECORD_FILE).write_text(text)
    assert main([str(tmp_path)]) == 2
    missing, damaged = capsys.readouterr().err.splitlines()
    assert "has no calibration.json" in missing
    assert "calibration.json" in damaged


def test_a_record_that_is_not_whole_is_not_written(record, tmp_path):
    file = tmp_path / RECORD_FILE
    write_record(file, record)
    before = file.read_bytes()
    for extra in ({"extra": float("nan")}, {"blocks": None}, {"config": {"unknown": 1}}):
        with pytest.raises(InputError):
            write_record(file, {**record, **extra})
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


# Sums and operations


def test_json_holds_sums_that_agree_with_the_stored_planes(run, record, checkpoint, capsys):
    assert main([str(checkpoint), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    stored = StoredCheckpoint(checkpoint)
    counted = {}
    for name, layer in run.source.linears.items():
        planes, scales = (tensor.numpy() for tensor in stored.read(layer.name, tuple(layer.weight.shape)))
        counted[name] = weight_statistics(PlaneWeight.of(planes, scales, layer.in_features, FORMAT.group_size))
    whole = sum(one.weights for one in counted.values())
    last = found["totals"]["e2e"]
    assert last["weights"] == whole == record["model"]["quantised_parameters"]
    ones = [sum(one.density[plane] * one.weights for one in counted.values()) for plane in range(2)]
    assert last["density"] == pytest.approx([count / whole for count in ones])
    for key in ("entropy", "huffman_bits"):
        assert last[key] == pytest.approx(sum(getattr(one, key) * one.weights for one in counted.values()) / whole)
    for stage in ("init", "block"):
        errors = [stages[stage] for block in record["blocks"] for stages in block["layers"].values()]
        for key in ("weight_error", "output_error"):
            mean = sum(figures[key] * figures["weights"] for figures in errors) / whole
            assert found["totals"][stage][key] == pytest.approx(mean)
    assert last["output_error"] is last["corr_paths"] is None
    operations = paper_flops(counted.values(), HIDDEN * VOCABULARY, 2 * HIDDEN)
    assert found["flops"]["full"] == operations.full
    assert found["flops"]["quantised"] == pytest.approx(operations.quantized)
    assert found["analyses"] is found["html"] is None
    assert {key: found[key] for key in record} == json.loads(json.dumps(record))


def test_operations_are_those_of_a_count_bit_by_bit(run):
    full = paper = every = additions = 0.0
    for name, layer in run.source.linears.items():
        bits = unpack_planes(run.layers[name][0].numpy(), layer.in_features)
        for row in np.moveaxis(bits, 0, -1).reshape(-1, 2):
            full += 2
            every += 2 * 2 / 16
            paper += 2 * int(row.sum()) / 16
            additions += int(row.sum())
    tokens, head = PAPER_PROMPT_TOKENS, 2 * HIDDEN * VOCABULARY
    attention = 2 * 2 * tokens**2 * HIDDEN * len(run.source.blocks)  # queries with keys, and shares with values
    expected = {"full": full, "quantised": paper, "every_bit": every, "additions": additions}
    found = flops(run.record)
    assert {key: found[key] for key in expected} == pytest.approx(
        {key: tokens * (value + head) + attention for key, value in expected.items()}
    )


def test_the_rule_gives_the_papers_count_of_llama_7b(record):
    figures = {**first_figures(record), "weights": 6_476_005_376 // 32, "density": [0.3, 0.506]}
    blocks = [{"name": str(i), "seconds": 0, "layers": {str(i): {"init": figures}}} for i in range(32)]
    found = flops({"model": {"hidden": 4096, "vocabulary": 32000}, "blocks": blocks})
    assert round(found["full"] / 1e9, 1) == 423.4
    assert round(found["quantised"] / 1e9, 1) == 29.8


def test_a_mean_is_over_weights_and_over_what_is_known(record):
    small, large = (copy.deepcopy(first_figures(record)) for _ in range(2))
    small.update(weights=1, density=[1.0, 0.0], output_error=None)
    large.update(weights=3, density=[0.0, 0.0], output_error=0.5)
    blocks = [{"name": "", "seconds": 0, "layers": {"a": {"init": small}, "b": {"init": large}}}]
    mean = totals({"blocks": blocks})["init"]
    assert mean["density"] == [0.25, 0]
    assert mean["output_error"] == 0.5


def test_the_table_has_a_line_for_each_layer_and_no_commands_to_the_terminal(record, checkpoint, capsys):
    value = copy.deepcopy(record)
    name = layer_names(value)[0]
    value["blocks"][0]["layers"][HOSTILE] = value["blocks"][0]["layers"].pop(name)
    value["model"]["name"] = HOSTILE
    write_record(checkpoint / RECORD_FILE, value)
    assert main([str(checkpoint)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    lines = out.splitlines()
    for layer in layer_names(record)[1:]:
        (line,) = [line for line in lines if line.startswith(f"{layer} ")]
        figures = next(block["layers"][layer] for block in record["blocks"] if layer in block["layers"])
        for stage in ("init", "block", "e2e"):
            assert f"{figures[stage]['weight_error']:.4f}" in line
        assert f"{figures['block']['corr_paths'][0]:.2f}" in line


# The page


def test_the_page_is_whole_and_loads_nothing(record, checkpoint, capsys, tmp_path):
    assert main([str(checkpoint), "--html"]) == 0
    text = (checkpoint / "report.html").read_text(encoding="utf-8")
    assert str(checkpoint / "report.html") in capsys.readouterr().out
    parsed = Page(text)
    assert parsed.tags.count("svg") == 6
    assert set(layer_names(record)) <= set(parsed.texts)
    ids = [value for name, value in parsed.attributes if name == "id"]
    assert len(set(ids)) == len(ids)
    links = [value for name, value in parsed.attributes if name.split(":")[-1] in ("href", "src", "data", "action")]
    assert links
    assert set(links) <= {f"#{one}" for one in ids}
    outside = {value for name, value in parsed.attributes if value and "//" in value and not name.startswith("xmlns")}
    assert not outside
    assert not re.search(r"@import|url\((?!#)", text)
    assert len(re.findall("https?:", text)) == len(re.findall(r'xmlns(?::\w+)?="http:', text))
    assert text.count("<!DOCTYPE") == 1
    assert not {"script", "iframe", "object", "link"} & set(parsed.tags)
    assert main([str(checkpoint), "--html", str(tmp_path / "again.html"), "--json"]) == 0
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == text  # nothing of the day or the run
    assert json.loads(capsys.readouterr().out)["html"] == str(tmp_path / "again.html")


def brief(record):
    """The record with one layer and its start alone, for what more pictures do not show."""
    name, figures = next(iter(record["blocks"][0]["layers"].items()))
    block = {"name": record["blocks"][0]["name"], "seconds": 1.0, "layers": {name: {"init": figures["init"]}}}
    return copy.deepcopy({**record, "blocks": [block], "e2e": None})


def test_a_filter_is_a_sentence_and_a_picture(record):
    text = page({**brief(record), "filter": filtered()}, None)
    assert Page(text).tags.count("svg") == 5
    (sentence,) = [line for line in sentences({**record, "filter": filtered()}) if line.startswith("filter")]
    assert (
        "2 of 3 generated sequences by discrepancy; KL from the teacher 0.767 in all, 0.850 in those kept" in sentence
    )
    assert sentence in Page(text).texts
    by_chance = {**brief(record), "filter": filtered(by="random", scores=None)}
    assert any("distinct tokens 0.500 in all, 0.500 in those kept" in line for line in sentences(by_chance))
    assert Page(page(by_chance, None)).tags.count("svg") == 4


def test_names_are_text_on_the_page(record):
    value = brief(record)
    layers = value["blocks"][0]["layers"]
    layers[HOSTILE] = layers.pop(next(iter(layers)))
    value["blocks"][0]["name"] = value["model"]["name"] = value["dualbinary"] = HOSTILE
    value["data"]["files"][0]["name"] = value["config"]["skip"] = HOSTILE
    value["seconds"] = {HOSTILE: 1.0}
    parsed = Page(page(value, None))
    assert "script" not in parsed.tags
    assert parsed.texts.count(HOSTILE) >= 3  # in two tables and the title


@pytest.mark.parametrize("planes", [1, 3, 4])
def test_any_number_of_planes_and_stages_has_a_page(planes, record, tmp_path):
    generator = np.random.default_rng(planes)
    bits = torch.from_numpy(generator.integers(0, 256, (planes, 4, 16), dtype=np.uint8))
    scales = torch.from_numpy(generator.standard_normal((planes, 4, 2)).astype(np.float32))
    figures = layer_statistics(torch.randn(4, 100), bits, scales, 64, None)
    short = {key: record[key] for key in ("version", "dualbinary", "config", "model")}
    blocks = [{"name": "0", "seconds": 0.0, "layers": {"a": {"init": figures}}}]
    write_record(tmp_path / RECORD_FILE, {**short, "data": None, "seconds": {}, "blocks": blocks})
    assert main([str(tmp_path), "--html"]) == 0
    parsed = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert parsed.tags.count("svg") == 3  # errors of weights, planes, levels


def test_without_matplotlib_the_page_names_the_package_and_the_rest_works(checkpoint, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([str(checkpoint), "--html"]) == 2
    assert "pip install 'dualbinary[report]'" in capsys.readouterr().err
    assert not (checkpoint / "report.html").exists()
    assert main([str(checkpoint)]) == 0
