"""What a run refuses before any work, beside what its command line tells (test_command.py)."""

import json
from pathlib import Path

import pytest

from calib.__main__ import main
from calib.checks import checked_run
from calib.config import CalibConfig
from calib.parallel import Team
from calib.presets import preset
from dualbinary import InputError

SHORT = {"generate": 40, "length": 64}
RUN = [*("--generate", "12", "--length", "16", "--planes", "2", "--group-size", "64", "--device", "cpu")]
RUN += ["--init-method", "fit", "--e2e-steps", "2", "--e2e-held-out", "2", "--stages", "init,e2e", "--quiet"]


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model("llama")


def asked(form=None, **e2e):
    """The preset fast of one format, and what is changed of it."""
    form = form or {"planes": 2}
    return CalibConfig.from_json({"data": SHORT, "format": form, "e2e": e2e}, "test")


def test_processes_must_be_able_to_share_a_batch(model):
    four = Team(0, 4)
    with pytest.raises(InputError, match="--e2e-batch 1: 4 processes share a batch; expected a multiple of 4"):
        checked_run(model, asked(), four)
    checked_run(model, asked(batch=4), four)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (asked({"planes": 2, "embedding_bits": 4}), "--embedding-bits: tables"),
        (asked({"size": "1MB"}), "--size: tables"),
        (asked(latent_rate=0.001), "--e2e-latent-rate: latents"),
    ],
)
def test_what_cannot_be_sharded_is_refused(model, config, message):
    with pytest.raises(InputError, match=f"{message} cannot be trained with FSDP; leave out --use_fsdp"):
        checked_run(model, config, Team(0, 1, sharded=True))
    checked_run(model, config)


def test_plans_of_a_budget_of_bytes_count_its_tables():
    planned = asked({"size": "1MB"}).format.as_planned
    assert planned.embedding_bits == 4
    assert preset("fast").format.as_planned.embedding_bits is None


def test_a_fresh_start_leaves_the_sequences_that_it_reads(model, tmp_path):
    out = tmp_path / "out"
    assert main([str(model), str(out), *RUN, "--keep-work"]) == 0
    written = out.with_name("out.generated.safetensors")
    text, begin = written.read_bytes(), RUN.index("--generate")
    again = [*RUN[:begin], *RUN[begin + 2 :], "--generated", str(written), "--fresh"]
    for file in out.iterdir():
        file.unlink()
    assert main([str(model), str(out), *again]) == 0
    assert written.read_bytes() == text


def test_another_checkpoint_at_the_same_place_is_another_run(model, tmp_path, capsys):
    start, out = tmp_path / "start", tmp_path / "out"
    only_init = [*RUN[: RUN.index("--e2e-steps")], "--stages", "init", "--quiet"]
    assert main([str(model), str(start), *only_init]) == 0
    trained = [*("--start", str(start), "--stages", "e2e", "--generate", "12", "--length", "16", "--quiet")]
    trained += ["--e2e-steps", "2", "--e2e-held-out", "2", "--device", "cpu"]
    assert main([str(model), str(out), *trained, "--keep-work"]) == 0
    for file in out.iterdir():
        file.unlink()
    record = Path(f"{out}.work") / "run.json"
    assert "model.safetensors" in json.loads(record.read_text())["start"]
    for file in start.iterdir():
        file.unlink()
    assert main([str(model), str(start), *only_init, "--seed", "1", "--fresh"]) == 0
    capsys.readouterr()
    assert main([str(model), str(out), *trained]) == 2
    assert "start over with --fresh" in capsys.readouterr().err
