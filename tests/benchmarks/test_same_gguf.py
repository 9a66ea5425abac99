"""One GGUF file in two engines: what counts as agreement, ratios of speed, the exact model, and files to measure."""

from typing import Any

import gguf
import numpy as np
import pytest
import torch

from benchmarks.common.peak_memory import run_tree_measured
from benchmarks.common.synthetic_llama import LlamaShape
from benchmarks.models import same_gguf
from benchmarks.models.agreement import deviation, first_difference
from benchmarks.models.exact_model import ExactModel
from benchmarks.models.fed_logits import logits_of
from benchmarks.models.random_gguf import KINDS, write_random
from importer.readers import open_model
from importer.readers.gguf.container import open_container
from tests.support.gguf_files import Type, write_tiny_model

TINY = LlamaShape(layers=1, hidden=256, intermediate=512, vocabulary=256, heads=4, kv_heads=2, tied=False)


def rows(*values: list[float]) -> np.ndarray:
    return np.array(values, np.float32)


EXACT = rows([0, 1, 3, 0], [4, 3.5, 0, 0], [0, 0, 1, 0])


def test_engines_that_choose_alike_have_no_difference():
    assert first_difference(EXACT, EXACT + 7, EXACT) is None


@pytest.mark.parametrize(
    ("exact", "other", "verdict"),
    [
        ([4, 3.9995, 0, 0], [3.9, 4, 0, 0], "tie"),
        ([4, 3.5, 0, 0], [3.7, 3.8, 0.1, 0.1], "rounding"),
        ([4, 1.5, 0, 0], [1.4, 1.5, 0, 0], "rounding"),  # its own errors are as large
    ],
)
def test_the_first_difference_is_judged_by_the_exact_model(exact, other, verdict):
    exact = rows(EXACT[0].tolist(), exact, [9, 0, 0, 0])
    second = rows(EXACT[0].tolist(), other, [0, 9, 0, 0])
    found: Any = first_difference(exact, second, exact)
    assert (found.place, found.tokens, found.verdict) == (1, (0, 1), verdict)
    ours, theirs, true = found.gaps
    assert ours == true >= 0 >= theirs


def test_a_choice_far_from_the_exact_one_is_an_error():
    exact = np.zeros((1, 1000), np.float32)
    exact[0, :2] = 4, 3
    other = exact.copy()
    other[0, :2] = 3, 3.1  # two of a thousand are off, so a deviation is 0.03
    for first, second in ((exact, other), (other, exact)):  # whoever it is that left the exact model
        found: Any = first_difference(first, second, exact)
        assert found.verdict == "error"


def test_a_deviation_is_of_what_changes_probabilities():
    found = deviation(EXACT + rows([1], [2], [3]), EXACT)
    assert (found.rms, found.kl, found.same_top) == (pytest.approx(0, abs=1e-7), pytest.approx(0, abs=1e-7), 3)
    found = deviation(EXACT + rows([1, -1, 1, -1]), EXACT)
    assert found.rms == pytest.approx(1)
    centered = EXACT - EXACT.mean(axis=1, keepdims=True)
    assert found.relative == pytest.approx(1 / np.sqrt(np.mean(centered**2)))
    assert (found.kl > 0.01, found.same_top) == (True, 3)


def record(variant, count, token, prompt, cpu=1.0):
    times = {"token_seconds": token, "token_cpu_seconds": cpu}
    times |= {"prompt_seconds": {"8": prompt}, "prompt_cpu_seconds": {"8": cpu}}
    return {"variant": variant, "threads": 1, "round": count, **times}


def test_ours_are_compared_with_the_faster_peer_of_each_column():
    (level0, level4), (peer, plain) = same_gguf.OURS, same_gguf.PEERS
    records = [record(level0, 0, 1.0, 2.0, 0.5), record(level4, 0, 1.0, 1.0), record(peer, 0, 3.0, 6.0)]
    records += [record(plain, 0, 2.0, 8.0), record(level0, 1, 1.0, 2.0, 0.5), record(plain, 1, 2.0, 8.0)]
    found = {row["engine"]: row for row in same_gguf.speeds(records)}
    assert (found[level0]["token"]["median"], found[level0]["token"]["cpu"]) == (2.0, 2.0)
    assert (found[level0]["8"]["median"], found[level4]["8"]["median"]) == (3.0, 6.0)
    assert found[level0]["rounds"] == 2
    lines = list(same_gguf.speed_table(list(found.values()), [8]))
    assert len({line.count("|") for line in lines}) == 1


class Fixed:
    """An engine whose most likely token is the last one plus one."""

    def start(self, capacity):
        self.seen = []

    def feed(self, tokens):
        self.seen += tokens
        return np.eye(8, dtype=np.float32)[(self.seen[-1] + 1) % 8]


def test_engines_are_fed_their_own_tokens_or_given_ones():
    request = {"prompts": [[1, 2], [5]], "following": None, "tokens": 3}
    assert logits_of(Fixed(), request).argmax(axis=2).tolist() == [[3, 4, 5], [6, 7, 0]]
    request["following"] = [[3, 0, 9], [1, 1, 9]]  # the last one is never fed
    assert logits_of(Fixed(), request).argmax(axis=2).tolist() == [[3, 4, 1], [6, 2, 2]]


def test_a_table_says_who_agrees():
    logits = {"ours": EXACT[None], "theirs": EXACT[None, :, ::-1], same_gguf.EXACT: EXACT[None]}
    found = same_gguf.agreement(logits, ["a prompt"])
    assert [row["engine"] for row in found] == ["ours", "theirs"]
    assert (found[0]["difference"], found[1]["difference"]["place"]) == (None, 0)
    lines = list(same_gguf.agreement_table(found))
    assert len({line.count("|") for line in lines}) == 1


def test_the_exact_model_is_the_one_of_the_file(tmp_path):
    path = tmp_path / "model.gguf"
    model = write_tiny_model(path, "llama", types=lambda name: Type.Q8_0 if "ffn" in name else Type.F32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".mlp." in name:
                rounded = gguf.dequantize(gguf.quantize(parameter.numpy(), Type.Q8_0), Type.Q8_0)
                parameter.copy_(torch.from_numpy(rounded))
        expected = model(torch.tensor([[5, 6, 7, 8]])).logits[0, -2:].numpy()
    found = ExactModel(path, 1).logits([5, 6, 7, 8], 2)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_random_file_is_a_model_of_its_type(kind, tmp_path):
    path = write_random(tmp_path / "model.gguf", kind, TINY)
    kinds = {tensor.type.name for tensor in open_container(path).tensors.values()}
    assert kinds == {kind, "Q4_K", "Q6_K", "F32"}
    model = open_model(path)
    numbers = model.weights["model.layers.0.mlp.down_proj"].read()
    levels = set(np.unique(numbers.q).tolist())
    assert levels == ({0, 1, 2} if "2_0" in kind else set(range(64 if kind == "Q6_K" else 16)))
    for module in ("model.layers.0.mlp.up_proj", "model.embed_tokens", "lm_head"):
        found: Any = model.weights[module].read()
        size = found.q.shape[1] // found.step.shape[1]
        step, q = found.step.astype(np.float32).repeat(size, axis=1), found.q.astype(np.float32)
        values = step * (q - found.zero) if found.offset is None else step * q + found.offset.repeat(size, axis=1)
        assert values.std() == pytest.approx(0.02, rel=0.1)
        assert abs(values.mean()) < 0.003  # half a step of levels from -8 to 7


def test_files_of_one_name_and_other_bytes_have_folders_of_their_own(tmp_path):
    contents, work = {"a": b"one", "b": b"two", "c": b"one"}, tmp_path / "work"
    for folder, content in contents.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.gguf").write_bytes(content)
    first, second, copy = (same_gguf.folder_of(tmp_path / folder / "model.gguf", work) for folder in contents)
    assert first == copy != second
    assert {first.parent, second.parent} == {work}


def test_memory_of_a_command_counts_its_children(tmp_path, monkeypatch):
    (tmp_path / "parent_of_large.py").write_text(
        "import subprocess, sys, time\n"
        "own = bytearray(60 << 20)\n"
        "code = 'import time; held = bytearray(90 << 20); time.sleep(0.3)'\n"
        "subprocess.run([sys.executable, '-c', code], check=True)\n"
        "print('done')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    output, peak = run_tree_measured("parent_of_large")
    assert output == "done\n"
    assert 150 << 20 < peak < 250 << 20
