"""`python -m calib` as a user runs it: options, a whole run, going on after a kill, plans, and errors."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from calib.__main__ import main, parser
from calib.config import CalibConfig, DataConfig, FormatConfig
from calib.machine import Machine
from calib.options import config_from
from calib.plan import plan
from calib.plan_shapes import Shapes
from calib.presets import PRESETS, preset
from dualbinary import InputError
from dualbinary.checkpoint import QuantizationConfig
from tests.support.tiny_models import make_model
from tests.support.tiny_tokenizers import write_tokenizer

SMALL = {
    "planes": 2,  # a budget has its own tests
    "generate": 12,
    "length": 16,
    "init-windows": 4,
    "init-refits": 0,
    "block-windows": 6,
    "block-held-out": 3,
    "e2e-steps": 6,
    "e2e-held-out": 3,
    "e2e-evaluate-every": 2,
    "e2e-scale-rate": 0.001,
    "device": "cpu",
}


def words(**changes):
    options = {**SMALL, **{name.replace("_", "-"): value for name, value in changes.items()}}
    return [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model("llama", tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "out"
    assert main([str(model), str(out), *words()]) == 0
    return out


def parsed(*arguments):
    return config_from(parser().parse_args(["model", "out", *arguments]))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_configurations(name):
    assert parsed("--preset", name) == preset(name)


def test_options_win_over_the_file_and_the_file_over_presets(tmp_path):
    stored = preset("paper").model_copy(update={"seed": 5})
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"config": stored.to_json()}))
    assert parsed("--config", str(file)) == stored
    changed = parsed("--config", str(file), "--seed", "6", "--e2e-gamma", "0.2", "--offset", "--text", "a", "b")
    assert (changed.seed, changed.e2e.gamma, changed.format.offset, changed.data.text) == (6, 0.2, True, ("a", "b"))
    assert changed.init == stored.init


def test_text_may_be_given_again_and_again():
    assert parsed("--text", "a", "b", "--text", "c").data.text == ("a", "b", "c")


def test_a_separator_may_be_written_with_backslashes():
    assert parsed("--separator", r"\n\n").data.separator == "\n\n"


def test_a_start_takes_the_place_of_init():
    assert parsed("--start", "somewhere").stages == ("block", "e2e")


def test_the_format_is_that_of_the_start_unless_options_say_one(finished):
    config = parsed("--start", str(finished))
    stored = json.loads((finished / "calibration.json").read_text())["config"]["format"]
    assert json.loads(config.format.model_dump_json()) == stored
    assert parsed("--start", str(finished), "--group-size", "96").format == FormatConfig()


def test_a_start_of_bases_brings_the_preset_of_its_method(tmp_path):
    block = QuantizationConfig("qbb", planes=4, group_size=-1, has_offset=True).to_dict()
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": block}))
    config = parsed("--start", str(tmp_path))
    assert (config.format.method, config.format.planes, config.format.group_size) == ("qbb", 4, -1)
    assert config.stages == ("layer", "e2e")


def test_a_start_in_full_precision_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"--start .*full-precision"):
        parsed("--start", str(tmp_path))


def test_sequences_made_before_take_the_place_of_new_ones():
    assert parsed("--method", "qbb", "--generated", "file").data.generate == 0
    assert parsed("--generated", "file", "--generate", "5").data.generate == 5  # which the run refuses


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--e2e-gamma", "2"], "e2e.gamma"),
        (["--group-size", "50"], "group_size"),
        (["--stages", "e2e,init"], "stages"),
        (["--init-method", "magic"], "init.method"),
        (["--e2e-kl", "0"], "kl, ce, dad, mse or features"),
        (["--generate", "5", "--keep", "9"], "keep"),
        (["--text", "a", "--keep", "9"], "keep"),
        (["--generate", "9", "--keep", "5", "--stages", "init"], "data.keep"),
        (["--generate", "9", "--scores", "file"], "scores"),
    ],
)
def test_a_wrong_value_is_named(arguments, named):
    with pytest.raises(InputError, match=named):
        parsed(*arguments)


def test_help_and_wrong_options_do_not_wait_for_torch():
    script = (
        "import sys; from calib.__main__ import main\n"
        "for words in (['--help'], ['model', 'out', '--planes', '9'], ['model', 'out', '--steps']):\n"
        "    try: main(words)\n"
        "    except SystemExit: pass\n"
        "    print(words, 'torch' in sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    told = [line for line in done.stderr.splitlines() if line.startswith("[")]
    assert [line.rpartition(" ")[2] for line in told] == ["False"] * 3


def test_a_run_writes_a_checkpoint_with_its_record(finished):
    record = json.loads((finished / "calibration.json").read_text())
    assert [point["step"] for point in record["e2e"]["curve"] if "held_out" in point] == [0, 2, 4, 6]
    assert record["e2e"]["best_loss"] <= record["e2e"]["first_loss"]
    assert all(block["error_after"] <= block["error_before"] for block in record["blocks"])
    stages = {tuple(figures) for block in record["blocks"] for figures in block["layers"].values()}
    assert stages == {("init", "block", "e2e")}
    assert record["data"]["generated_windows"] == SMALL["e2e-steps"] + SMALL["e2e-held-out"]
    assert not finished.with_name("out.work").exists()
    config = CalibConfig.read(finished / "calibration.json")
    assert config == parsed(*words(device=None)).with_start_token(False)  # the model has no tokenizer
    planes = [name for name in load_file(finished / "model.safetensors") if name.endswith("planes")]
    assert len(planes) == 2 * 7


def test_all_files_of_a_checkpoint_can_be_read_by_whom_one_can(finished):
    assert len({file.stat().st_mode for file in finished.iterdir()}) == 1


def test_the_record_repeats_the_run(model, finished, tmp_path, capsys):
    arguments = ["--config", str(finished / "calibration.json"), "--device", "cpu", "--json"]
    assert main([str(model), str(tmp_path / "again"), *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["directory"] == str(tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()


def test_a_run_can_go_on_from_a_checkpoint(model, finished, tmp_path):
    out = tmp_path / "further"
    assert main([str(model), str(out), *words(), "--start", str(finished), "--stages", "e2e"]) == 0
    first, second = load_file(finished / "model.safetensors"), load_file(out / "model.safetensors")
    assert all(torch.equal(value, second[name]) for name, value in first.items() if name.endswith("planes"))
    refused = tmp_path / "refused"
    assert main([str(model), str(refused), *words(group_size=32), "--start", str(finished), "--stages", "e2e"]) == 2
    assert not refused.exists()


def test_a_run_trains_on_what_it_keeps_and_another_can_take_its_scores(model, finished, tmp_path, capsys):
    """From what `finished` was made of; its sequences are read again."""
    generated = finished.with_name("out.generated.safetensors")
    shared = words(generate=None, generated=generated, keep=4, start=finished, stages="e2e")
    assert main([str(model), str(tmp_path / "first"), *shared]) == 0
    record = json.loads((tmp_path / "first/calibration.json").read_text())
    found, held_out = record["filter"], SMALL["e2e-held-out"]
    assert found["candidates"] == len(found["scores"]) == record["data"]["generated_windows"] - held_out
    best = sorted(range(len(found["scores"])), key=lambda index: -found["scores"][index])[:4]
    assert found["chosen"] == sorted(best)
    capsys.readouterr()
    assert main(["report", str(tmp_path / "first")]) == 0
    assert f"filter: 4 of {found['candidates']} generated sequences by discrepancy" in capsys.readouterr().out
    scores = ["--scores", str(tmp_path / "first/calibration.json")]
    assert main([str(model), str(tmp_path / "second"), *shared, *scores]) == 0
    first, second = (tmp_path / name / "model.safetensors" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    assert main([str(model), str(tmp_path / "third"), *shared, *scores, "--seed", "1"]) == 2
    assert "has no scores of these" in capsys.readouterr().err
    assert main([str(model), str(tmp_path / "fourth"), *shared, "--keep-by", "random"]) == 0
    other = json.loads((tmp_path / "fourth/calibration.json").read_text())
    assert other["filter"]["scores"] is None
    assert len(other["filter"]["chosen"]) == 4
    assert other["filter"]["chosen"] != found["chosen"]
    # It learned from others, whether or not that made it better on this machine.
    losses = [[entry.get("loss") for entry in each["e2e"]["curve"]] for each in (record, other)]
    assert losses[0] != losses[1]


def killed(model, out, seconds):
    """Start the command and end it without warning; whether it was still at work."""
    command = [sys.executable, "-m", "calib", str(model), str(out), *words(), "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True
    return False


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(model, tmp_path):
    command = [sys.executable, "-m", "calib", str(model), str(tmp_path / "whole"), *words(), "--quiet"]
    begin = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    duration = time.monotonic() - begin
    out, draw, kills = tmp_path / "killed", random.Random(0), 0
    expected = (tmp_path / "whole/model.safetensors").read_bytes()
    while kills < 20:
        # Each attempt gets a little further than Python's start, which is most of the time here.
        if killed(model, out, duration * draw.uniform(0.3, 1.0)):
            kills += 1
        else:
            assert (out / "model.safetensors").read_bytes() == expected
            shutil.rmtree(out)
            out.with_name("killed.generated.safetensors").unlink()
    if not out.exists():  # the last kill may come after the checkpoint is in place, and no run continues from there
        subprocess.run([*command[:4], str(out), *command[5:]], check=True, stdout=subprocess.DEVNULL)
    assert (out / "model.safetensors").read_bytes() == expected


def test_no_text_is_one_clear_error(model, tmp_path, capsys):
    assert main([str(model), str(tmp_path / "out"), *words(generate=0)]) == 2
    error = capsys.readouterr().err
    assert "--text" in error
    assert "--generate" in error
    assert not (tmp_path / "out").exists()


def test_a_preset_lets_the_model_write_half_of_the_text_or_all(model, tmp_path):
    write_tokenizer(shutil.copytree(model, tmp_path / "model"))
    (tmp_path / "text.txt").write_text("some words and then others, " * 40, encoding="utf-8")
    found = {}
    for name, text in {"beside": ["--text", str(tmp_path / "text.txt")], "alone": []}.items():
        out = tmp_path / name
        assert main([str(tmp_path / "model"), str(out), *words(generate=None), *text, "--quiet"]) == 0
        data = json.loads((out / "calibration.json").read_text())["data"]
        found[name] = data["text_windows"], data["generated_windows"]
    wanted = SMALL["e2e-steps"] + SMALL["e2e-held-out"]
    assert found == {"beside": (4, wanted - 4), "alone": (0, wanted)}


def test_another_run_does_not_take_up_its_work(model, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = words(stages="init", generate=None, init_method="fit")
    assert main([str(model), str(out), *arguments, "--keep-work"]) == 0
    shutil.rmtree(out)
    assert main([str(model), str(out), *arguments, "--seed", "1"]) == 2
    assert "config.seed" in capsys.readouterr().err
    assert main([str(model), str(out), *arguments, "--seed", "1", "--fresh"]) == 0


def test_an_output_that_exists_is_left_alone(model, finished, capsys):
    before = (finished / "model.safetensors").read_bytes()
    assert main([str(model), str(finished), *words()]) == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert (finished / "model.safetensors").read_bytes() == before


def test_a_plan_needs_no_weights(model, tmp_path, capsys):
    shutil.copy(model / "config.json", tmp_path)
    arguments = ["--length", "128", "--plan", "--json", "--device", "cpu"]
    assert main([str(tmp_path), str(tmp_path / "out"), *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["weights"] == 2 * (128 * 128 * 2 + 128 * 64 * 2 + 3 * 128 * 160)
    assert list(found["stages"]) == ["generate", "budget", "init+block", "e2e"]


@pytest.mark.parametrize("name", ["gpt2", "opt"])
def test_windows_longer_than_learned_positions_are_one_clear_error(name, tmp_path, capsys):
    directory, text = make_model(name, tmp_path / name), tmp_path / "text.txt"
    text.write_text("a b " * 200, encoding="utf-8")
    arguments, cpu = ["--text", str(text), "--length", "129"], ["--device", "cpu"]
    for command in (
        [str(directory), str(tmp_path / "out"), *arguments, *cpu, "--plan"],
        [str(directory), str(tmp_path / "out"), *arguments, *cpu],
        ["eval", str(directory), *arguments],
    ):
        assert main(command) == 2
        assert "--length 129: the model has learned positions for 128 tokens" in capsys.readouterr().err
    assert main([str(directory), str(tmp_path / "out"), *arguments[:-1], "128", *cpu, "--plan"]) == 0


def test_rotated_positions_do_not_end_where_the_configuration_says(model, tmp_path):
    (tmp_path / "some.txt").write_text("a b " * 200, encoding="utf-8")
    text = ["--text", str(tmp_path / "some.txt")]
    arguments = [str(model), str(tmp_path / "out"), *text, "--length", "129", "--device", "cpu"]
    assert main([*arguments, "--generate", "0", "--plan"]) == 0


REFUSED = {
    "--length 129: the model was made for 128 tokens": ["--length", "129"],
    "no linear layer is left to quantize": ["--length", "64", "--skip", "*"],
    "a budget of 1.1 bits: expected": ["--length", "64", "--bits", "1.1"],
    "expected a checkpoint": ["--length", "64", "--start", "nowhere"],
    "--from nowhere: not a directory": ["--length", "64", "--method", "qbb", "--from", "nowhere"],
    "nowhere.json: missing": ["--length", "64", "--measured", "nowhere.json"],
    "nowhere.txt: ": ["--length", "64", "--text", "nowhere.txt"],
    "no data to calibrate with": ["--length", "64", "--preset", "quick"],
    "--generate: expected 9 sequences or more, with 8 held out, got 5; write more": [
        "--length",
        "64",
        "--generate",
        "5",
    ],
    "--generate: expected 264 sequences or more, with 8 held out and 256 to keep, got 256": [
        *("--length", "64", "--generate", "256", "--keep", "256")
    ],
    "--e2e-dad: expected 0 with --size": ["--length", "64", "--size", "1MB", "--e2e-dad", "1"],
    "--init-method: expected one of": ["--length", "64", "--init-method", "cascaded", "--planes", "2"],
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_plan_refuses_what_the_run_does(message, model, tmp_path, capsys):
    arguments = [str(model), str(tmp_path / "out"), *REFUSED[message], "--device", "cpu"]
    errors = []
    for command in ([*arguments, "--plan"], arguments):
        assert main(command) == 2
        errors.append(capsys.readouterr().err)
    assert message in errors[0]
    assert errors[0] == errors[1]
    assert not list(tmp_path.iterdir())


def test_plans_grow_with_what_they_are_of():
    machine = Machine("test", 1e12, 1e10)
    small = Shapes(512, 1000, 10_000_000, (((512, 512),),) * 4)
    large = Shapes(1024, 1000, 20_000_000, (((1024, 1024),),) * 4)
    for name in PRESETS:
        stages = [plan(name, shapes, preset(name), machine).stages for shapes in (small, large)]
        for stage, value in stages[0].items():
            assert value.seconds < stages[1][stage].seconds
            assert value.memory < stages[1][stage].memory
    plain = preset("fast")
    e2e = plain.e2e.model_copy(update={"features": 1.0, "swap": 0.5})
    dear = plain.model_copy(update={"e2e": e2e, "data": DataConfig(generate=100, keep=20)})
    first, second = (plan("some", small, config, machine).stages for config in (plain, dear))
    assert first["e2e"].seconds < second["e2e"].seconds
    assert first["e2e"].memory < second["e2e"].memory
    assert second["filter"].tokens == (100 - plain.e2e.held_out) * plain.data.length
    assert second["filter"].seconds < second["e2e"].seconds
    half = plan("slow", small, preset("fast"), Machine("test", 5e11, 5e9))
    whole = plan("quick", small, preset("fast"), machine)
    assert half.stages["e2e"].seconds == pytest.approx(2 * whole.stages["e2e"].seconds)
