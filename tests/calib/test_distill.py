"""Distillation against a plain training loop, and what it promises: the best state, and resuming bit for bit."""

import dataclasses

import pytest
import torch
from torch.nn import functional

from calib.config import CalibConfig, DistillConfig
from calib.layers import full_precision, quant_linears
from calib.loss_weights import LossWeights
from calib.losses import cross_entropy, dad_weights, entropy, kl_divergence, logit_error
from calib.schedule import learning_rate
from calib.stages.context import RunContext
from calib.stages.distill import BETAS, distill
from calib.stages.objective import DistillationObjective
from calib.state import WorkDirectory
from dualbinary import DualBinaryError, InputError
from dualbinary.contract.weight import PlaneFormat
from tests.support.fitted_layers import fitted
from tests.support.tiny_models import VOCABULARY, make_model

T = 24
FORMAT = PlaneFormat(2, 64, offset=True)


def opened(directory):
    """The model with planes fitted without data, loaded."""
    return fitted(directory, FORMAT)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make_model("llama_tied", tmp_path_factory.mktemp("models") / "llama_tied")


def windows(count, seed=0):
    return torch.randint(0, VOCABULARY, (count, T), generator=torch.Generator().manual_seed(seed))


def distilled(directory, path, tokens, progress=lambda *_, **__: None, **values):
    source = opened(directory)
    with WorkDirectory(path, {}) as work:
        config = CalibConfig(seed=3, e2e=DistillConfig(**values))
        told = RunContext(
            source, config, work, torch.float32, progress=lambda _, *done, **losses: progress(*done, **losses)
        )
        result = distill(told, tokens)
    return source, result


def states(source):
    return {name: (layer.current_planes(), layer.scales.detach()) for name, layer in source.linears.items()}


def assert_same(left, right):
    for name, tensors in states(left).items():
        assert all(map(torch.equal, tensors, states(right)[name])), name


def seen(model, window):
    """Logits [T - 1, V] of one window and the outputs of all blocks, [blocks, T, H]."""
    outputs = []
    handles = [
        block.register_forward_hook(lambda _, __, output: outputs.append(output)) for block in model.model.layers
    ]
    logits = model(input_ids=window[None]).logits[0, :-1]
    for handle in handles:
        handle.remove()
    return logits, torch.cat(outputs)


def plain_loss(model, window, config, swapped=(False, False)):
    """The loss of one window, with all logits and by autograd."""
    with torch.no_grad(), full_precision(model):
        for block, own in zip(model.model.layers, swapped, strict=True):
            for layer in quant_linears(block):
                layer.quantized = own
        teacher, wanted = seen(model, window)
    student, found = seen(model, window)
    kl, omega = kl_divergence(teacher, student), dad_weights(entropy(teacher), entropy(student), config.gamma)
    terms = config.kl * kl + config.ce * cross_entropy(student, window[1:]) + config.dad * omega.detach() * kl
    features = ((found - wanted) ** 2).sum(-1) / (wanted**2).sum(-1)
    mse = logit_error(teacher, student)
    return terms.mean() + config.mse * mse.mean() + config.features * features.mean(1).sum()


def plain_loop(directory, order, config):
    """What distill does, in few words: returns the scales."""
    source = opened(directory)
    source.model.requires_grad_(requires_grad=False)
    groups = []
    for layer in source.linears.values():
        layer.scales.requires_grad_()
        groups.append(
            {"params": [layer.scales], "rate": config.scale_rate * layer.weight.square().mean().sqrt().item()}
        )
    optimizer = torch.optim.Adam(groups, lr=0, betas=BETAS, eps=1e-12)
    for step, batch in enumerate(order):
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * learning_rate(step, len(order), config.warmup)
        torch.stack([plain_loss(source.model, window, config) for window in batch]).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: layer.scales.detach() for name, layer in source.linears.items()}


@pytest.mark.parametrize(
    "losses",
    [
        {},
        {"kl": 0.0, "ce": 1.0},
        {"kl": 0.0, "dad": 1.0, "gamma": 0.7},
        {"kl": 0.5, "ce": 0.25, "dad": 0.5},
        {"kl": 0.0, "mse": 1.0},
        {"kl": 0.0, "features": 1.0},
        {"kl": 0.5, "mse": 0.5, "features": 0.25},
    ],
    ids=["kl", "ce", "dad", "mixture", "mse", "features", "three"],
)
def test_agrees_with_a_plain_training_loop(llama, tmp_path, losses):
    # One batch that holds every window, so that their order does not matter; two passes at a time.
    tokens = windows(4)
    settings = {"steps": 3, "batch": 4, "micro_batch": 2, "held_out": 0, "warmup": 2, "scale_rate": 0.01, **losses}
    source, _ = distilled(llama, tmp_path / "work", tokens, **settings)
    wanted = plain_loop(llama, [tokens] * 3, DistillConfig(**settings))
    for name, layer in source.linears.items():
        # Adam's first steps go by the sign of a gradient; where it is nearly 0, rounding decides. Few may differ, by
        # the 3 steps of the rate at most; all others agree to what float16 keeps, 2^-11 of the value.
        wrong = (layer.scales - wanted[name]).abs() > 2**-10 * wanted[name].abs() + 1e-7
        assert wrong.float().mean() < 0.01, name
        assert torch.allclose(
            layer.scales, wanted[name], rtol=2**-10, atol=2 * 3 * 0.01 * layer.weight.square().mean().sqrt().item()
        )
        assert not torch.equal(layer.scales, opened_scales(llama)[name])


def opened_scales(directory, kept={}):  # noqa: B006  # one model for the whole module
    if directory not in kept:
        kept[directory] = {name: layer.scales.detach() for name, layer in opened(directory).linears.items()}
    return kept[directory]


def test_learns(llama, tmp_path):
    _, result = distilled(
        llama, tmp_path / "work", windows(36), steps=30, held_out=4, evaluate_every=10, scale_rate=0.002
    )
    assert result.best_loss is not None
    assert result.first_loss is not None
    assert result.best_loss < result.first_loss
    assert [point["step"] for point in result.curve if "held_out" in point] == [0, 10, 20, 30]
    assert result.curve[-1]["tokens"] == 30 * T


def test_keeps_the_state_before_where_training_only_harms(llama, tmp_path):
    source, result = distilled(
        llama, tmp_path / "work", windows(6), steps=4, held_out=2, evaluate_every=2, scale_rate=0.9, warmup=0
    )
    assert result.best_step == 0
    assert result.best_loss == result.first_loss
    for name, layer in source.linears.items():
        assert torch.equal(layer.scales, opened_scales(llama)[name])


def test_the_best_loss_is_that_of_the_kept_state(llama, tmp_path):
    tokens = windows(10)
    source, result = distilled(llama, tmp_path / "work", tokens, steps=6, held_out=3, evaluate_every=2)
    with torch.no_grad():
        losses = [plain_loss(source.model, window, DistillConfig()) for window in tokens[-3:]]
    # Sums of a thousand float32 terms of either sign in another order.
    assert torch.stack(losses).mean().item() == pytest.approx(result.best_loss, rel=1e-4)


QBB = {"kl": 0.0, "mse": 1.0, "features": 1.0, "swap": 0.6}


@pytest.mark.parametrize("options", [{}, {"latent_rate": 0.01}, QBB], ids=["scales", "latents", "qbb"])
def test_goes_on_after_a_kill_to_the_same_bits(llama, tmp_path, options):
    settings = {"steps": 7, "batch": 2, "held_out": 1, "evaluate_every": 2, **options}
    whole, expected = distilled(llama, tmp_path / "whole", windows(7), **settings)

    for calls_until_killed in (1, 3, 4):

        def progress(*_, left=[calls_until_killed], **__):  # noqa: B006  # one list for each round
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            distilled(llama, tmp_path / "killed", windows(7), progress, **settings)
    resumed, result = distilled(llama, tmp_path / "killed", windows(7), **settings)
    assert_same(whole, resumed)

    def timeless(value):
        return dataclasses.replace(value, curve=[{**point, "seconds": 0} for point in value.curve])

    assert timeless(result) == timeless(expected)


@pytest.mark.parametrize("swapped", [(False, False), (True, False), (False, True), (True, True)])
def test_a_swapped_block_of_the_teacher_is_the_students(llama, swapped):
    source, tokens = opened(llama), windows(3)
    model = source.model.requires_grad_(requires_grad=False)
    scales = [layer.scales.requires_grad_() for layer in source.linears.values()]
    config = DistillConfig(kl=0.5, mse=0.2, features=0.3)
    objective = DistillationObjective(source, LossWeights(kl=0.5, mse=0.2, features=0.3), "cpu", torch.float32)
    found = objective.losses(tokens, factor=0.25, swapped=swapped)
    gradients = [one.grad for one in scales]
    expected = torch.stack([plain_loss(model, window, config, swapped) for window in tokens]).sum()
    wanted = torch.autograd.grad(0.25 * expected, scales, allow_unused=all(swapped))
    if all(swapped):
        assert found["loss"] == pytest.approx(0, abs=1e-6)  # two roundings of sums that cancel
        return
    # Sums of a thousand float32 terms of either sign in another order.
    assert found["loss"] == pytest.approx(expected.item(), rel=1e-4)
    for mine, theirs in zip(gradients, wanted, strict=True):
        assert mine is not None
        assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-4 * theirs.abs().max().item())
    assert all(layer.quantized for layer in source.linears.values())


def test_swaps_follow_their_schedule_and_do_not_touch_what_is_measured(llama, tmp_path):
    settings = {"steps": 4, "batch": 2, "held_out": 2, "evaluate_every": 4, "scale_rate": 1e-9}
    _, plain = distilled(llama, tmp_path / "plain", windows(6), **settings)
    _, falling = distilled(llama, tmp_path / "falling", windows(6), swap=1.0, **settings)
    _, rising = distilled(llama, tmp_path / "rising", windows(6), swap=1.0, swap_schedule="rising", **settings)
    losses = [[point["loss"] for point in one.curve[1:]] for one in (plain, falling, rising)]
    # Where no block or every one is drawn, the loss is that of the whole teacher, or none at all.
    assert losses[1][0] == pytest.approx(0, abs=1e-6)
    assert losses[2][3] == pytest.approx(0, abs=1e-6)
    assert losses[1][3] == pytest.approx(losses[0][3], rel=1e-4)
    assert losses[2][0] == pytest.approx(losses[0][0], rel=1e-4)
    assert plain.first_loss is not None
    assert plain.first_loss > 0.01
    assert plain.first_loss == falling.first_loss == rising.first_loss


def test_planes_stay_unless_latents_have_a_rate(llama, tmp_path):
    before = states(opened(llama))
    frozen, _ = distilled(llama, tmp_path / "frozen", windows(4), steps=3, held_out=0)
    moved, _ = distilled(llama, tmp_path / "moved", windows(4), steps=3, held_out=0, latent_rate=0.05)
    assert all(torch.equal(states(frozen)[name][0], planes) for name, (planes, _) in before.items())
    assert any(not torch.equal(states(moved)[name][0], planes) for name, (planes, _) in before.items())


def test_latents_of_no_use_leave_the_planes(llama, tmp_path):
    """Before any step, latents must stand for the planes that they were made of."""
    source, result = distilled(
        llama, tmp_path / "work", windows(4), steps=1, held_out=2, latent_rate=0.9, scale_rate=0.9, warmup=0
    )
    assert result.best_step == 0
    before = opened(llama)
    assert_same(source, before)


@pytest.mark.parametrize("name", ["gemma2", "gpt2", "bloom", "opt", "phi3"])
def test_recomputed_activations_give_the_same(name, tmp_path):
    directory = make_model(name, tmp_path / name)
    settings = {"steps": 2, "batch": 2, "held_out": 1, "features": 0.5}
    plain, first = distilled(directory, tmp_path / "plain", windows(4), **settings)
    recomputed, second = distilled(
        directory, tmp_path / "recomputed", windows(4), gradient_checkpointing=True, **settings
    )
    assert_same(plain, recomputed)
    assert first.best_loss == second.best_loss


def test_refuses_a_head_that_it_does_not_know(llama, tmp_path, monkeypatch):
    source = opened(llama)
    monkeypatch.setattr(
        source.model.lm_head, "forward", lambda h: 3 * functional.linear(h, source.model.lm_head.weight)
    )
    with pytest.raises(InputError, match="does not know this head"), WorkDirectory(tmp_path / "work", {}) as work:
        distill(RunContext(source, CalibConfig(), work, torch.float32), windows(3))


def test_says_where_the_loss_is_no_number(llama, tmp_path):
    with pytest.raises(DualBinaryError, match="--e2e-scale-rate"):
        broken = opened(llama)
        next(iter(broken.linears.values())).scales.data.fill_(float("nan"))
        with WorkDirectory(tmp_path / "work", {}) as work:
            config = CalibConfig(e2e=DistillConfig(steps=1, held_out=0))
            distill(RunContext(broken, config, work, torch.float32), windows(3))
