"""Blockwise calibration: what each block gains, and which stages, initial weights and limits there are."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from calib.config import BlockConfig, InitConfig
from calib.layers import quant_linears
from calib.models.source import SourceModel
from calib.models.stored_checkpoint import StoredCheckpoint
from calib.save import save_checkpoint
from calib.stages.reconstruct import reconstruct
from calib.weight_init.stored import from_planes
from dualbinary import InputError
from tests.support.families import by_kind
from tests.support.fitted_layers import initialized

LENGTH = 16
WINDOWS = 9


@pytest.fixture(scope="module")
def tokens(random_tokens):
    return random_tokens(WINDOWS, LENGTH)


@pytest.fixture(scope="module")
def familiar(random_tokens):
    """Windows of which those held out are trained on as well: they gain on any machine, however it rounds."""
    return random_tokens(6, LENGTH)[[*range(6), *range(3)]]


LONGER = BlockConfig(windows=6, held_out=3, epochs=4, batch=2)
OF_INPUTS = InitConfig(method="activation", windows=4, refits=0, polishes=0)


@dataclass(frozen=True)
class Calibrated:
    """The usual calibration of a tiny Llama, what it told of its progress, and its work directory."""

    result: Any
    progress: list[tuple[int, int]]
    work: Path


@pytest.fixture(scope="module")
def calibrated(tiny_model, calibrated_blocks, tokens, tmp_path_factory):
    seen, work = [], tmp_path_factory.mktemp("calibrated") / "work"
    result = calibrated_blocks(
        tiny_model("llama"), tokens, path=work, progress=lambda done, total, **_: seen.append((done, total))
    )
    return Calibrated(result, seen, work)


@pytest.mark.parametrize("name", by_kind(["llama", "bloom", "gpt2", "gemma3_text", "opt", "phi3"]))
def test_no_block_is_worse_for_having_been_trained(tiny_model, calibrated_blocks, blockwise_config, familiar, name):
    config = blockwise_config(block=LONGER, init=OF_INPUTS)
    result = calibrated_blocks(tiny_model(name), familiar, config=config)

    assert [report["name"] for report in result.reports] == [name for name, _ in result.source.blocks]
    assert all(report["error_after"] <= report["error_before"] for report in result.reports)
    assert any(report["error_after"] < report["error_before"] for report in result.reports)
    for (_, block), report in zip(result.source.blocks, result.reports, strict=True):
        assert list(report["layers"]) == [layer.name for layer in quant_linears(block)]
        for stages in report["layers"].values():
            assert list(stages) == ["init", "block"]
            assert 0 < stages["init"]["output_error"] < 1
    for name, (planes, scales) in result.layers.items():
        layer = result.source.linears[name]
        groups = -(-layer.in_features // 64)
        assert planes.shape == (2, layer.out_features, 8 * groups)
        assert scales.shape == (3, layer.out_features, groups)
        assert scales.isfinite().all()


def test_errors_are_those_of_the_whole_model(calibrated, blockwise_config, tokens):
    """The report of the last block against whole models: a full-precision one and the calibrated one."""
    result = calibrated.result
    source, held_out = result.source, tokens[-blockwise_config().block.held_out :]
    teacher = SourceModel(source.directory, source.formats)
    for one in (source, teacher):
        one.load(one.model)
    hidden = {}
    for key, one in (("student", source), ("teacher", teacher)):
        last = one.blocks[-1][1]
        last.register_forward_hook(lambda _module, _args, out, key=key: hidden.update({key: out}))
        with torch.no_grad():
            one.model(input_ids=held_out)
    wanted, found = hidden["teacher"], hidden["student"]
    errors = (found - wanted).square().mean(-1) / wanted.square().mean(-1)
    # Two orders of the same float32 sums: 2^-23 of each of some hundred terms.
    assert result.reports[-1]["error_after"] == pytest.approx(float(errors.mean()), rel=1e-4)


def test_targets_of_a_block_follow_its_outputs_to_their_device():
    """Without a GPU: tensors that have a device and no values, which go as far as the first number of an error."""
    config = BlockConfig(batch=1, held_out=1)
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        states, outputs = torch.empty(2, 4, 8), torch.empty(1, 4, 8, device="cuda")
        reconstruct(lambda _: outputs, [], states, states, config, 0, lambda *_: None)


def test_windows_that_errors_are_measured_on_change_no_weights(tiny_model, calibrated_blocks, blockwise_config, tokens):
    still = BlockConfig(windows=6, held_out=3, batch=2, latent_rate=0, scale_rate=0)
    config = blockwise_config(block=still, init=OF_INPUTS.model_copy(update={"windows": WINDOWS}))
    others = torch.cat([tokens[:-3], tokens[-3:].flip(1)])
    first, second = (calibrated_blocks(tiny_model("llama"), windows, config=config) for windows in (tokens, others))
    assert [one["error_after"] for one in first.reports] != [one["error_after"] for one in second.reports]
    for name, values in first.layers.items():
        assert all(map(torch.equal, values, second.layers[name]))


def test_progress_counts_tokens_up_to_all_of_them(calibrated):
    seen = calibrated.progress
    assert {total for _, total in seen} == {2 * WINDOWS * LENGTH}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == 2 * WINDOWS * LENGTH


def test_nothing_but_results_is_left(calibrated):
    names = {file.relative_to(calibrated.work).as_posix() for file in calibrated.work.rglob("*")}
    assert names == {"lock", "run.json", "block-000.safetensors", "block-001.safetensors"}


def test_the_seed_decides_the_order(tiny_model, calibrated_blocks, blockwise_config, tokens):
    configs = [blockwise_config(seed=seed) for seed in (0, 0, 1)]
    results = [calibrated_blocks(tiny_model("llama"), tokens, config=config) for config in configs]
    assert results[0].reports == results[1].reports
    for name, tensors in results[0].layers.items():
        assert all(map(torch.equal, tensors, results[1].layers[name])), name
    assert results[0].reports != results[2].reports


def test_in_bfloat16_it_comes_out_near(tiny_model, calibrated_blocks, calibrated, tokens):
    exact = calibrated.result.reports
    rounded = calibrated_blocks(tiny_model("llama"), tokens, dtype=torch.bfloat16).reports
    for left, right in zip(exact, rounded, strict=True):
        # Products in bfloat16 add some 1e-5 (2^-9, squared, of each) to errors near 1; but whether training helped a
        # block, by a few hundredths on three windows, may come out otherwise, and the next block inherits that.
        assert right["error_after"] == pytest.approx(left["error_after"], rel=0.1)
        assert right["error_after"] <= right["error_before"]


# Stages, initial weights and limits.


@pytest.mark.parametrize("method", ["fit", "paper"])
def test_a_start_without_data_needs_no_tokens(tiny_model, calibrated_blocks, blockwise_config, method):
    config = blockwise_config(stages=("init",), init=InitConfig(method=method))
    if method == "paper":
        config = config.model_copy(update={"format": config.format.model_copy(update={"offset": False})})
    result = calibrated_blocks(tiny_model("llama"), None, config=config)
    for name, (planes, scales) in result.layers.items():
        layer = result.source.linears[name]
        result.source.load(layer)
        state = initialized(method, layer.weight, None, config.format.plane_format, name)
        assert torch.equal(planes, state.planes)
        assert torch.equal(scales, state.scales.half())
    assert all("error_before" not in report for report in result.reports)


def test_a_start_alone_leaves_what_it_chose(tiny_model, calibrated_blocks, blockwise_config, tokens):
    alone, both = (
        calibrated_blocks(tiny_model("llama"), tokens, config=blockwise_config(init=OF_INPUTS, stages=stages))
        for stages in (("init",), ("init", "block"))
    )
    for left, right in zip(alone.reports[0]["layers"].values(), both.reports[0]["layers"].values(), strict=True):
        assert left == {"init": right["init"]}  # the first block does not see what happens to others


def test_a_checkpoint_gives_initial_weights(tiny_model, calibrated_blocks, blockwise_config, familiar, tmp_path):
    """Reconstruction that learns nothing gives the checkpoint back; one that learns makes it better."""
    first = calibrated_blocks(tiny_model("llama"), None, config=blockwise_config(stages=("init",)))
    directory = tmp_path / "checkpoint"
    save_checkpoint(first.source, directory, first.weight)
    checkpoint = StoredCheckpoint(directory)

    def initial_weight(layer):
        return from_planes(layer.weight, *checkpoint.read(layer.name, tuple(layer.weight.shape)), checkpoint.format)

    still = blockwise_config(
        stages=("block",), start=str(directory), block=BlockConfig(windows=6, held_out=3, latent_rate=0, scale_rate=0)
    )
    unchanged = calibrated_blocks(tiny_model("llama"), familiar, config=still, initial_weights=initial_weight)
    for name, tensors in first.layers.items():
        assert all(map(torch.equal, tensors, unchanged.layers[name]))
    assert all(report["error_after"] == report["error_before"] for report in unchanged.reports)

    learns = blockwise_config(
        stages=("block",), start=str(directory), block=BlockConfig(windows=6, held_out=3, epochs=4)
    )
    better = calibrated_blocks(tiny_model("llama"), familiar, config=learns, initial_weights=initial_weight)
    assert better.reports[0]["error_before"] == unchanged.reports[0]["error_before"]
    assert better.reports[0]["error_after"] < unchanged.reports[0]["error_after"]
    assert all(list(stages) == ["block"] for report in better.reports for stages in report["layers"].values())


def test_a_damaged_result_is_named(tiny_model, calibrated_blocks, calibrated, tokens, tmp_path):
    shutil.copytree(calibrated.work, tmp_path / "work")
    save_file({}, tmp_path / "work" / "block-001.safetensors")
    with pytest.raises(InputError, match=r"block-001\.safetensors: not a result"):
        calibrated_blocks(tiny_model("llama"), tokens, path=tmp_path / "work")


def test_hidden_states_beyond_the_limit_are_refused(tiny_model, calibrated_blocks, blockwise_config, tokens):
    need = 4 * 4 * WINDOWS * LENGTH * 128 / 1e9  # four generations of float32 [windows, T, H]
    with pytest.raises(InputError, match=rf"--cache-gb: the hidden states of {WINDOWS} windows of {LENGTH} tokens"):
        calibrated_blocks(tiny_model("llama"), tokens, config=blockwise_config(cache_gb=need * 0.999))
    calibrated_blocks(tiny_model("llama"), tokens, config=blockwise_config(cache_gb=need * 1.001))


def test_hidden_states_beyond_the_disk_are_refused(tiny_model, calibrated_blocks, tokens, monkeypatch):
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**5))
    with pytest.raises(InputError, match=r"free space of .*streams: the hidden states .* fewer or shorter windows"):
        calibrated_blocks(tiny_model("llama"), tokens)


@pytest.mark.parametrize(
    ("windows", "changes"),
    [
        (9, {"windows": 1, "held_out": 5}),  # most windows are neither learned from nor held out
        (5, {"windows": 96, "held_out": 3}),  # fewer than wanted
        (9, {"windows": 6, "held_out": 3, "batch": 4}),  # batches that the windows do not fill
        (6, {"windows": 6, "held_out": 3, "batch": 4}),  # not one of them
    ],
    ids=str,
)
def test_any_number_of_windows_is_calibrated_or_refused(
    tiny_model, calibrated_blocks, blockwise_config, random_tokens, windows, changes
):
    config = blockwise_config(block=BlockConfig(**{"batch": 1, **changes}))
    tokens = random_tokens(windows, LENGTH)
    if windows - config.block.held_out < config.block.batch:
        with pytest.raises(InputError, match=r"has 6 windows of text, expected 7 or more.*--block-batch"):
            calibrated_blocks(tiny_model("llama"), tokens, config=config)
    else:
        assert len(calibrated_blocks(tiny_model("llama"), tokens, config=config).reports) == 2


def test_forward_batches_of_any_size_give_the_same(
    tiny_model, calibrated_blocks, blockwise_config, tokens, monkeypatch
):
    """With nothing learned from the text, where rounding could tip a weight over to another level."""
    config = blockwise_config(
        init=InitConfig(method="fit"), block=BlockConfig(windows=6, held_out=3, latent_rate=0, scale_rate=0)
    )
    whole = calibrated_blocks(tiny_model("llama"), tokens, config=config)
    monkeypatch.setattr("calib.stages.blockwise.FORWARD_TOKENS", 2 * LENGTH)  # batches of two, and a last one of one
    parts = calibrated_blocks(tiny_model("llama"), tokens, config=config)
    for left, right in zip(whole.reports, parts.reports, strict=True):
        # Products of other sizes: the same float32 sums in another order, 2^-24 of each of a few hundred terms.
        assert left["error_before"] == pytest.approx(right["error_before"], rel=1e-4)


def test_skipped_layers_stay_as_they_are(tiny_model, calibrated_blocks, calibrated, blockwise_config, tokens):
    config = blockwise_config(skip=("*.down_proj",))
    result = calibrated_blocks(tiny_model("llama"), tokens, config=config)
    assert len(result.layers) == 12
    assert result.reports[0]["error_before"] < calibrated.result.reports[0]["error_before"]
    assert result.source.skipped == [f"model.layers.{index}.mlp.down_proj" for index in range(2)]


@pytest.mark.parametrize("skipped", [0, 1])
def test_a_block_may_keep_full_precision(tiny_model, calibrated_blocks, blockwise_config, tokens, skipped):
    """It hands on what it is given: nothing where it is the first, what quantized blocks made where it is the last."""
    config = blockwise_config(skip=(f"model.layers.{skipped}.*",))
    result = calibrated_blocks(tiny_model("llama"), tokens, config=config)
    kept, other = result.reports[skipped], result.reports[1 - skipped]
    assert kept["layers"] == {}
    assert kept["error_after"] == kept["error_before"]
    assert (kept["error_before"] < 1e-10) == (skipped == 0)
    assert len(other["layers"]) == 7
    assert other["error_after"] <= other["error_before"]
    assert all(name.startswith(f"model.layers.{1 - skipped}.") for name in result.layers)
