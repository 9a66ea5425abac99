"""The losses against naive ones over whole matrices in float64, and what must hold of them."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from calib.losses import (
    LossWeights,
    chunk_size,
    cross_entropy,
    dad_weights,
    entropy,
    feature_error,
    kl_divergence,
    logit_error,
    pulled,
    sequence_loss,
)

MIXTURES = {
    "kl": LossWeights(),
    "ce": LossWeights(kl=0, ce=1),
    "dad": LossWeights(kl=0, dad=1),
    "dad_student": LossWeights(kl=0, dad=1, gamma=0),
    "dad_teacher": LossWeights(kl=0, dad=1, gamma=1),
    "kl_ce": LossWeights(kl=0.7, ce=0.4),
    "kl_dad": LossWeights(kl=1, dad=0.5, gamma=0.1),
    "ce_dad": LossWeights(kl=0, ce=0.3, dad=1.5, gamma=0.9),
    "mse": LossWeights(kl=0, mse=1),
    "mse_shift": LossWeights(kl=0, mse=1, mse_shift=True),
    "kl_mse": LossWeights(kl=1, mse=0.3),
    "dad_mse": LossWeights(kl=0, dad=0.5, mse=2),
    "all": LossWeights(kl=0.2, ce=0.3, dad=0.5, mse=0.1),
    "features alone": LossWeights(kl=0, features=1),
}


def drawn(tokens=7, vocabulary=11, width=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    targets = torch.randint(0, vocabulary, (tokens,), generator=generator)
    return normal(tokens, width), normal(tokens, width), targets, normal(vocabulary, width)


def probabilities(logits):
    return logits.exp() / logits.exp().sum(-1, keepdim=True)


def naive(student, teacher, targets, head, weights):
    """The loss of papers, written over the whole matrices; differentiable in `student`. Of logits alone."""
    ls, lt = head(student), head(teacher)
    ps, pt = probabilities(ls), probabilities(lt)
    ce = torch.stack([-ps[t, y].log() for t, y in enumerate(targets)])
    kl = (pt * (pt / ps).log()).sum(-1)
    omega = (-(pt * pt.log()).sum(-1)) ** weights.gamma * (-(ps * ps.log()).sum(-1)) ** (1 - weights.gamma)
    omega = (omega / omega.mean()).detach()
    apart = ls - lt
    if not weights.mse_shift:
        apart = apart - apart.mean(1, keepdim=True)
    mse = (apart**2).mean(1)
    return (weights.kl * kl + weights.ce * ce + weights.dad * omega * kl + weights.mse * mse).mean()


def test_functions_are_what_their_equations_say():
    student, teacher, targets, _ = drawn(width=11)
    ps, pt = probabilities(student), probabilities(teacher)
    torch.testing.assert_close(cross_entropy(student, targets), -ps.gather(1, targets[:, None])[:, 0].log())
    torch.testing.assert_close(kl_divergence(teacher, student), (pt * (pt / ps).log()).sum(1))
    torch.testing.assert_close(entropy(student), -(ps * ps.log()).sum(1))
    torch.testing.assert_close(logit_error(teacher, student), (student - teacher).var(1, correction=0))
    torch.testing.assert_close(logit_error(teacher, student, shift=True), ((student - teacher) ** 2).mean(1))
    relative = ((student - teacher) ** 2).sum(1) / (teacher**2).sum(1)
    torch.testing.assert_close(feature_error(student, teacher), relative)
    weights = dad_weights(entropy(teacher), entropy(student), 0.3)
    expected = entropy(teacher) ** 0.3 * entropy(student) ** 0.7
    torch.testing.assert_close(weights, expected / expected.mean())


def test_functions_compute_in_single_precision_at_least():
    logits = torch.randn(3, 40).bfloat16()
    targets = torch.tensor([0, 1, 2])
    for values in (cross_entropy(logits, targets), kl_divergence(logits, logits), entropy(logits)):
        assert values.shape == (3,)
        assert values.dtype == torch.float32


def test_gradients_of_the_smooth_losses():
    student, teacher, targets, _ = drawn(width=6, vocabulary=6)
    student.requires_grad_()
    teacher.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: cross_entropy(s, targets), student)
    assert torch.autograd.gradcheck(kl_divergence, (teacher, student))
    assert torch.autograd.gradcheck(logit_error, (teacher, student))
    assert torch.autograd.gradcheck(feature_error, (student, teacher))
    assert torch.autograd.gradcheck(entropy, student)


def test_dad_weights_pass_no_gradient():
    logits = torch.randn(4, 9, requires_grad=True)
    assert not dad_weights(entropy(logits), entropy(logits * 2), 0.5).requires_grad


def test_dad_weights_survive_a_certain_teacher():
    weights = dad_weights(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0]), 0.5)
    assert torch.isfinite(weights).all()
    assert weights[0] > 0


@given(gamma=st.floats(0, 1), scale=st.floats(0.1, 10), seed=st.integers(0, 99))
def test_dad_weights_have_mean_one_and_ignore_the_unit_of_entropy(gamma, scale, seed):
    teacher, student = torch.rand(2, 13, generator=torch.Generator().manual_seed(seed)).double() + 0.01
    weights = dad_weights(teacher, student, gamma)
    assert weights.mean().item() == pytest.approx(1)
    torch.testing.assert_close(dad_weights(scale * teacher, scale * student, gamma), weights)


@given(shift=st.floats(-50, 50), seed=st.integers(0, 99), vocabulary=st.integers(2, 30))
def test_losses_ignore_a_shift_of_the_logits_and_keep_their_bounds(shift, seed, vocabulary):
    student, teacher, targets, _ = drawn(width=vocabulary, vocabulary=vocabulary, seed=seed)
    kl, h = kl_divergence(teacher, student), entropy(student)
    torch.testing.assert_close(kl_divergence(teacher + shift, student - shift), kl)
    torch.testing.assert_close(cross_entropy(student + shift, targets), cross_entropy(student, targets))
    torch.testing.assert_close(entropy(student + shift), h)
    assert (kl >= 0).all()
    assert ((h >= 0) & (h <= math.log(vocabulary) + 1e-9)).all()
    torch.testing.assert_close(kl_divergence(student, student), torch.zeros_like(h))


def test_features_of_an_enormous_token_count_as_much_as_any():
    student, teacher, *_ = drawn()
    size = torch.ones(len(student), 1, dtype=student.dtype)
    size[0] = 1e4
    torch.testing.assert_close(feature_error(student * size, teacher * size), feature_error(student, teacher))
    assert torch.isfinite(feature_error(student, torch.zeros_like(teacher))).all()


def test_pulled_goes_on_unchanged_with_the_gradient_of_its_error_besides():
    shape = 2, 3, 5  # sequences, tokens, width
    student, teacher, after = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    student.requires_grad_()
    found, error = pulled(student, teacher, 0.7)
    assert torch.equal(found, student)
    assert not error.requires_grad
    expected = feature_error(student, teacher).mean(1)
    torch.testing.assert_close(error, expected)
    loss = (after * student**2).sum() + 0.7 * expected.sum()
    (wanted,) = torch.autograd.grad(loss, student)
    (gradient,) = torch.autograd.grad((after * found**2).sum(), student)
    torch.testing.assert_close(gradient, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("weights", MIXTURES.values(), ids=MIXTURES)
@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_a_sequence_is_the_naive_loss_whatever_the_chunk(weights, chunk):
    student, teacher, targets, matrix = drawn()

    def head(x):  # not linear, as softcaps make it
        return 4 * torch.tanh(x @ matrix.T / 4)

    expected = naive(student.requires_grad_(), teacher, targets, head, weights)
    (gradient,) = torch.autograd.grad(expected, student)
    result = sequence_loss(student, teacher, targets, head, weights, chunk)
    assert result.losses["loss"] == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(result.gradient, gradient, rtol=1e-10, atol=1e-14)


def test_a_sequence_says_its_terms_and_entropies():
    student, teacher, targets, matrix = drawn()
    ls, lt = student @ matrix.T, teacher @ matrix.T
    weights = LossWeights(kl=0.2, ce=0.3, dad=0.5, gamma=0.2, mse=0.1)
    result = sequence_loss(student, teacher, targets, lambda x: x @ matrix.T, weights, 2, gradient=False)
    assert result.gradient is None
    expected = {
        "kl": kl_divergence(lt, ls),
        "ce": cross_entropy(ls, targets),
        "dad": dad_weights(entropy(lt), entropy(ls), 0.2) * kl_divergence(lt, ls),
        "mse": logit_error(lt, ls),
        "teacher_entropy": entropy(lt),
        "student_entropy": entropy(ls),
    }
    for name, values in expected.items():
        torch.testing.assert_close(result.per_token[name], values)
    for name in ("kl", "ce", "dad", "mse"):
        assert result.losses[name] == pytest.approx(expected[name].mean().item())


def test_hard_labels_need_no_teacher():
    student, teacher, targets, matrix = drawn()
    weights = LossWeights(kl=0, ce=1)
    alone = sequence_loss(student, None, targets, lambda x: x @ matrix.T, weights, 4)
    beside = sequence_loss(student, teacher, targets, lambda x: x @ matrix.T, weights, 4)
    assert set(alone.losses) == {"loss", "ce"}
    assert "kl" in beside.losses
    torch.testing.assert_close(alone.gradient, beside.gradient, rtol=0, atol=0)
    with pytest.raises(ValueError, match="teacher"):
        sequence_loss(student, None, targets, lambda x: x @ matrix.T, LossWeights(), 4)


def test_a_head_in_16_bits_costs_only_its_own_rounding():
    student, teacher, targets, matrix = drawn(tokens=40, vocabulary=300, width=32, dtype=torch.float32)
    matrix = matrix / 4
    head = torch.nn.functional.linear
    exact = sequence_loss(student, teacher, targets, lambda x: head(x, matrix), LossWeights(), 16)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = sequence_loss(student, teacher, targets, lambda x: head(x, matrix), LossWeights(), 16)
    assert rounded.gradient is not None
    assert exact.gradient is not None
    assert rounded.gradient.dtype == torch.float32
    assert rounded.losses["kl"] == pytest.approx(exact.losses["kl"], rel=0.02)
    torch.testing.assert_close(
        rounded.gradient, exact.gradient, rtol=0.05, atol=0.02 * exact.gradient.abs().max().item()
    )


@pytest.mark.parametrize(
    "values",
    [
        {"kl": -1},
        {"mse": -1},
        {"features": math.nan},
        {"ce": math.nan},
        {"dad": math.inf},
        {"gamma": 1.5},
        {"gamma": -0.1},
        {"kl": 0},
    ],
    ids=lambda values: str(values),
)
def test_wrong_weights_are_refused_by_name(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        LossWeights(**values)


def test_chunks_shrink_with_the_vocabulary():
    assert chunk_size(256) > chunk_size(49152) > chunk_size(256_000) > 0


def test_large_logits_do_not_overflow():
    student, teacher, targets, matrix = drawn(dtype=torch.float32)
    weights = LossWeights(kl=1, ce=1, mse=1)
    shifted = sequence_loss(student, teacher, targets, lambda x: x @ matrix.T + 500, weights, 4)
    plain = sequence_loss(student, teacher, targets, lambda x: x @ matrix.T, weights, 4)
    assert shifted.losses["loss"] == pytest.approx(plain.losses["loss"], rel=1e-3)


@pytest.mark.parametrize("counts", [False, True])
def test_a_shift_of_all_logits_counts_where_it_is_asked_for(counts):
    """Unlike in any loss of distributions; and the maximum that a softmax takes away must come back."""
    student, teacher, targets, matrix = drawn()
    shifts = iter((0.0, 3.0) * 4)  # the head sees the student's chunk, then the teacher's
    weights = LossWeights(kl=0, mse=1, mse_shift=counts)
    result = sequence_loss(student, teacher, targets, lambda x: x @ matrix.T + next(shifts), weights, 2)
    plain = logit_error(teacher @ matrix.T, student @ matrix.T).mean().item()
    shifted = logit_error(teacher @ matrix.T + 3, student @ matrix.T, shift=True).mean().item()
    assert result.losses["mse"] == pytest.approx(shifted if counts else plain, rel=1e-12)
    assert shifted > plain + 1
