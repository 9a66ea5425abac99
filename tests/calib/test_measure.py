import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from calib.measure import PreferenceTable, frequency_classes, layer_statistics
from dualbinary import InputError, dequantize
from tests.support.strategies import FLOATS, cases


def hessian_of(rng, K):
    x = rng.standard_normal((3 * K, K)) * rng.lognormal(size=K)
    return x, x.T @ x / len(x)


def naive_correlation(a, b):
    return (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())


@given(cases(FLOATS))
def test_layer_statistics_are_those_of_outputs_computed_one_by_one(case):
    weight = case.rng.standard_normal((case.N, case.K))
    x, hessian = hessian_of(case.rng, case.K)
    planes, scales = torch.from_numpy(case.planes), torch.from_numpy(case.scales)
    got = layer_statistics(torch.from_numpy(weight), planes, scales, case.group_size, torch.from_numpy(hessian))
    quantized = dequantize(case.planes, case.scales, case.K, case.group_size)
    error = weight - quantized
    assert got["weight_error"] == pytest.approx((error**2).sum() / (weight**2).sum(), rel=1e-4)
    assert got["output_error"] == pytest.approx(((x @ error.T) ** 2).sum() / ((x @ weight.T) ** 2).sum(), rel=1e-4)
    assert got["density"] == pytest.approx(case.bits.mean(axis=(1, 2)))
    per_weight = np.repeat(case.scales.astype(np.float64), case.group_size, axis=2)[:, :, : case.K]
    outputs = [x @ (scale * bits).T for scale, bits in zip(per_weight, case.bits, strict=False)]
    left = x @ weight.T
    if len(case.scales) > len(case.planes):
        left = left - x @ per_weight[-1].T
    paths, residuals = [], []
    for first, second in itertools.pairwise(outputs):
        left = left - first
        paths.append(naive_correlation(first, second) if first.any() and second.any() else 0)
        residuals.append(naive_correlation(left, second) if second.any() else 0)
    assert got["corr_paths"] == pytest.approx(paths, abs=1e-4)
    assert got["corr_residual"] == pytest.approx(residuals, abs=1e-4)


@given(cases(FLOATS))
def test_level_shares_count_weights_from_the_lowest_level_of_their_group_up(case):
    planes, scales = torch.from_numpy(case.planes), torch.from_numpy(case.scales)
    got = layer_statistics(torch.ones(case.N, case.K), planes, scales, case.group_size, None)
    codes = np.sum([bits << plane for plane, bits in enumerate(case.bits)], axis=0)
    table = np.stack(
        [
            sum(case.scales[p].astype(np.float32) for p in range(len(case.planes)) if code >> p & 1)
            + np.zeros(case.scales.shape[1:], np.float32)
            for code in range(1 << len(case.planes))
        ]
    )
    counts = np.zeros(len(table))
    for n, k in np.ndindex(codes.shape):
        levels = table[:, n, k // case.group_size]
        counts[(levels < levels[codes[n, k]]).sum()] += 1
    if len(np.unique(table.round(6))) == table.size:  # else equal levels share a place in one order or another
        assert got["level_shares"] == pytest.approx(counts / codes.size)
    assert sum(got["level_shares"]) == pytest.approx(1)


def test_without_a_hessian_there_is_no_word_of_outputs():
    planes = torch.zeros(2, 3, 8, dtype=torch.uint8)
    got = layer_statistics(torch.ones(3, 64), planes, torch.ones(2, 3, 1), 64, None)
    assert got["output_error"] is got["corr_paths"] is got["corr_residual"] is None
    assert got["weight_error"] == 1
    assert got["entropy"] == got["huffman_bits"] == 0


def test_an_exact_and_an_empty_weight_have_no_error():
    planes = torch.full((2, 3, 8), 255, dtype=torch.uint8)
    scales = torch.stack([torch.full((3, 1), 2.0), torch.full((3, 1), -2.0)])
    got = layer_statistics(torch.zeros(3, 64), planes, scales, 64, torch.eye(64))
    assert got["weight_error"] == got["output_error"] == 0
    assert got["corr_paths"] == pytest.approx([-1])  # the second plane takes back all that the first gave
    assert got["corr_residual"] == pytest.approx([1])


def test_tensors_that_do_not_fit_are_refused():
    planes, scales = torch.zeros(2, 3, 8, dtype=torch.uint8), torch.ones(2, 3, 1)
    with pytest.raises(InputError, match=r"hessian: expected \[64, 64\]"):
        layer_statistics(torch.ones(3, 64), planes, scales, 64, torch.eye(32))
    with pytest.raises(InputError, match="planes: expected shape"):
        layer_statistics(torch.ones(3, 65), planes, scales, 64, None)


def test_classes_hold_half_and_up_to_four_fifths_of_all_occurrences():
    tokens = torch.tensor([4] * 5 + [2] * 3 + [0] + [1])
    assert frequency_classes(tokens, 6).tolist() == [2, 2, 1, 2, 0, 2]
    assert frequency_classes(torch.arange(4), 4).tolist() == [0, 0, 1, 1]  # the lower id comes first
    assert frequency_classes(torch.tensor([3, 3, 3]), 5).tolist() == [2, 2, 2, 0, 2]


@given(st.integers(5, 40), st.integers(0, 2**32 - 1), st.integers(1, 7))
def test_preference_table_counts_as_a_loop_does_whatever_the_chunks(positions, seed, chunk):
    random = torch.Generator().manual_seed(seed)
    width = 11
    classes = torch.randint(3, (width,), generator=random)
    teacher, student = 3 * torch.randn(2, positions, width, generator=random)
    targets = torch.randint(width, (positions,), generator=random)
    table = PreferenceTable(classes)
    for part in zip(teacher.split(chunk), student.split(chunk), targets.split(chunk), strict=True):
        table.add(*part)
    got = table.to_dict()
    p, q = teacher.double().softmax(1), student.double().softmax(1)
    entropy = -(p * p.log()).sum(1)
    parts = [got["all"], *got["quartiles"], *got["classes"].values()]
    order = entropy.float().argsort().tensor_split(4)
    members = [torch.arange(positions), *order, *((classes[targets] == c).nonzero()[:, 0] for c in range(3))]
    for figures, at in zip(parts, members, strict=True):
        assert figures["positions"] == len(at)
        if not len(at):
            assert figures["kl"] is None
            continue
        assert figures["kl"] == pytest.approx(float((p * (p / q).log()).sum(1)[at].mean()), abs=1e-4)
        assert figures["teacher_entropy"] == pytest.approx(float(entropy[at].mean()), abs=1e-4)
        assert figures["student_nll"] == pytest.approx(float(-q[at, targets[at]].log().mean()), abs=1e-4)
        for c in range(3):
            assert figures["target"][c] == pytest.approx(float((classes[targets[at]] == c).double().mean()))
            assert figures["student_argmax"][c] == pytest.approx(
                float((classes[student[at].argmax(1)] == c).double().mean())
            )
            assert figures["teacher_mass"][c] == pytest.approx(float(p[at][:, classes == c].sum(1).mean()), abs=1e-5)


def test_balance_is_zero_for_a_student_like_its_teacher_and_positive_for_one_that_leans_to_the_head():
    classes = torch.tensor([0, 1, 2])
    logits, targets = torch.tensor([[2.0, 0, 1], [0.0, 0, 2]]), torch.tensor([0, 2])
    same, leaning = PreferenceTable(classes), PreferenceTable(classes)
    same.add(logits, logits, targets)
    leaning.add(logits, logits + torch.tensor([3.0, 0, 0]), targets)
    assert same.to_dict()["balance"] == pytest.approx({"argmax": 0, "mass": 0, "nll": 0})
    balance = leaning.to_dict()["balance"]
    assert balance["argmax"] == 1  # one argmax of two went from the tail to the head
    assert balance["mass"] > 0
    assert balance["nll"] > 0


def test_an_empty_table_and_one_of_a_single_position_can_be_written():
    empty = PreferenceTable(torch.tensor([0, 1, 2]))
    assert empty.to_dict()["all"]["positions"] == 0
    empty.add(torch.ones(1, 3), torch.ones(1, 3), torch.tensor([0]))
    assert [quartile["positions"] for quartile in empty.to_dict()["quartiles"]] == [1, 0, 0, 0]
    with pytest.raises(ValueError, match="expected logits"):
        empty.add(torch.ones(1, 4), torch.ones(1, 4), torch.tensor([0]))
