"""Several sequences at once against one at a time, on models of several kinds."""

import mmap
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runtime_ext
from dualbinary import DualBinaryError, InputError
from exporter.options import ExportOptions
from exporter.pipeline import export
from runtime_ext.batch_decoder import batch_decoder, load_batch_decoder
from runtime_ext.cache import untouched_zeros
from runtime_ext.decoder import Decoder
from runtime_ext.providers import Provider
from tests.support import tiny_sessions as tiny
from tests.support.tiny_models import make_model

# Plain attention, learned positions (an input of the graph), a window and rotations of single layers, states beside
# keys and values, and a cache that grows.
FAMILIES = ["llama", "opt", "gemma3_text", "lfm2", "llama_head20"]
CAPACITY = 40
# Rounding of another number of rows moves activations of 15 bits by a step: see test_decoder.py.
TOLERANCE = 3e-4


@pytest.fixture(scope="module", params=FAMILIES)
def decoder(request, tmp_path_factory) -> Decoder:
    """A tiny model of each family."""
    work = tmp_path_factory.mktemp(request.param)
    source = make_model(request.param, work / "model")
    export(source, work / "out" / "model.onnx", ExportOptions(), library=runtime_ext.library_path())
    return Decoder.load(work / "out" / "model.onnx", threads=1)


def alone(decoder, tokens):
    decoder.start(CAPACITY)
    return decoder.step(tokens)


def assert_close(actual, expected):
    assert np.abs(actual - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_ragged_sequences_that_come_and_go_have_the_logits_of_each_alone(decoder):
    batch = batch_decoder(decoder, 3, CAPACITY)
    random = np.random.default_rng(0)
    running = {}  # sequence: its tokens

    def read(count):
        tokens, sequence = random.integers(3, 250, count).tolist(), batch.open()
        batch.read(sequence, tokens[:2])  # in two pieces
        running[sequence] = tokens
        return sequence, batch.read(sequence, tokens[2:]) if count > 2 else None

    def step(chosen):
        for sequence, row in zip(chosen, batch.step(chosen, [running[s][-1] for s in chosen]), strict=True):
            assert sequence.length == len(running[sequence])
            found[sequence] = row

    found = {}
    first, logits = read(9)
    assert_close(logits, alone(decoder, running[first]))
    second, third = read(4)[0], read(13)[0]
    for _ in range(3):
        for tokens in running.values():
            tokens.append(int(random.integers(3, 250)))
        step([third, first, second])
    for sequence, tokens in running.items():
        assert_close(found[sequence], alone(decoder, tokens))
    # The first ends, another begins to read, and the others go on before it is ready.
    batch.close(first)
    del running[first]
    fourth, _ = read(5)
    for chosen in ([second, third], [third], [second], [third, second], [fourth], [second, fourth, third]):
        for sequence in chosen:
            running[sequence].append(int(random.integers(3, 250)))
        step(chosen)
    for sequence, tokens in running.items():
        assert_close(found[sequence], alone(decoder, tokens))


@given(data=st.data())
@settings(max_examples=15)
def test_any_order_of_steps_gives_the_logits_of_each_alone(tiny_model, data):
    decoder = Decoder.load(tiny_model, threads=1, library=False)
    batch = batch_decoder(decoder, 3, CAPACITY)
    running = {}
    for _ in range(data.draw(st.integers(3, 12))):
        kind = data.draw(st.sampled_from(["open", "step", "close"]))
        if kind == "open" and batch.free:
            tokens = data.draw(st.lists(st.integers(0, 250), min_size=1, max_size=8))
            sequence = batch.open()
            assert_close(batch.read(sequence, tokens), alone(decoder, tokens))
            running[sequence] = tokens
        elif kind == "close" and running:
            sequence = data.draw(st.sampled_from(list(running)))
            batch.close(sequence)
            del running[sequence]
        elif kind == "step" and running:
            chosen = data.draw(st.lists(st.sampled_from(list(running)), unique=True, min_size=1))
            tokens = [data.draw(st.integers(0, 250)) for _ in chosen]
            for sequence, token, row in zip(chosen, tokens, batch.step(chosen, tokens), strict=True):
                running[sequence].append(token)
                assert_close(row, alone(decoder, running[sequence]))


@pytest.mark.parametrize("library", [True, False])
def test_rows_of_an_int8_cache_move_with_their_sequence(tmp_path, library):
    source = make_model("llama", tmp_path / "model")
    path = tmp_path / "out" / "model.onnx"
    export(source, path, ExportOptions(kv_cache="int8"), library=runtime_ext.library_path())
    decoder = Decoder.load(path, threads=1, library=library)
    batch, other = batch_decoder(decoder, 3, CAPACITY), batch_decoder(decoder, 3, CAPACITY)
    prompts = [[5, 6, 7], [80, 81, 82, 83, 84], [9]]

    def answers(batch: Any, order: list[int]) -> dict[int, np.ndarray]:
        """Logits of the last step; rows are exchanged where the order of the prompts and of the steps differ."""
        opened = {index: batch.open() for index in order}
        for index, sequence in opened.items():
            batch.read(sequence, prompts[index])
        batch.step([opened[2]], [40])
        batch.step([opened[1], opened[0]], [41, 42])
        rows = batch.step([opened[0], opened[2], opened[1]], [43, 44, 45])
        return dict(zip((0, 2, 1), rows, strict=True))

    found, expected = answers(batch, [0, 1, 2]), answers(other, [2, 1, 0])

    assert batch.batched
    for index, tokens in enumerate([[5, 6, 7, 42, 43], [80, 81, 82, 83, 84, 41, 45], [9, 40, 44]]):
        # Another number of rows rounds activations otherwise, by which a number of the cache may be its neighbor.
        decoder.start(CAPACITY)
        decoder.step(tokens[:-2])
        decoder.step(tokens[-2:-1])
        single = decoder.step(tokens[-1:])
        limit = 4e-3 * np.abs(single).max()
        assert max(np.abs(rows[index] - single).max() for rows in (found, expected)) <= limit


def test_several_tokens_of_one_are_checked_and_taken_back_beside_the_others(decoder):
    batch = batch_decoder(decoder, 3, CAPACITY)
    first, second, third = (batch.open() for _ in range(3))
    for sequence, token in ((first, 5), (second, 60), (third, 9)):
        batch.read(sequence, [token, 6, 7])
    if not decoder.verifies:
        assert batch.verify_limit(second) == 0
        with pytest.raises(InputError, match="2 tokens to verify"):
            batch.verify(second, [8, 9])
        return
    batch.step([second, third], [8, 8])  # rows change places
    assert batch.verify_limit(second) == decoder.verify_tokens

    rows = batch.verify(second, [10, 11, 12])
    for count in (1, 2, 3):
        assert_close(rows[count - 1], alone(decoder, [60, 6, 7, 8, *(10, 11, 12)[:count]]))
    batch.rewind(second, 5)
    after = batch.step([first, second, third], [20, 21, 22])
    for row, tokens in zip(after, ([5, 6, 7, 20], [60, 6, 7, 8, 10, 21], [9, 6, 7, 8, 22]), strict=True):
        assert_close(row, alone(decoder, tokens))

    for length in (-1, 8):
        with pytest.raises(InputError, match=f"cannot go back to {length} of 6 tokens"):
            batch.rewind(second, length)
    batch.read(second, list(range(3, CAPACITY - 6)))  # room for three more
    assert batch.verify_limit(second) == 3
    with pytest.raises(InputError, match="4 tokens to verify, expected 1 to 3"):
        batch.verify(second, [1, 2, 3, 4])


def test_a_run_that_fails_leaves_the_sequences_as_they_were(decoder):
    batch = batch_decoder(decoder, 2, CAPACITY)
    pair = [batch.open(), batch.open()]
    for sequence in pair:
        batch.read(sequence, [5, 6, 7])

    class Failing:
        def __init__(self, session):
            self.session = session

        def run_with_iobinding(self, *_):
            raise RuntimeError("out of memory\nand more")

        def __getattr__(self, name):
            return getattr(self.session, name)

    owners = [batch] if batch.batched else [sequence.decoder for sequence in cast(Any, pair)]
    names = ["_session" if batch.batched else "session"] * len(owners)
    saved = [getattr(owner, name) for owner, name in zip(owners, names, strict=True)]
    for owner, name, session in zip(owners, names, saved, strict=True):
        setattr(owner, name, Failing(session))
    with pytest.raises(DualBinaryError, match=r"failed while running the model: out of memory$"):
        batch.step(pair, [8, 9])
    for owner, name, session in zip(owners, names, saved, strict=True):
        setattr(owner, name, session)
    after = batch.step(pair, [8, 9])
    for row, tokens in zip(after, ([5, 6, 7, 8], [5, 6, 7, 9]), strict=True):
        assert_close(row, alone(decoder, tokens))


@pytest.mark.skipif(not hasattr(mmap, "MADV_NOHUGEPAGE"), reason="a system without huge pages")
def test_room_takes_memory_where_it_is_written_to_alone():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before, room = resident(), untouched_zeros((64, 256, 1024), np.float32)
    room[:, 0] = 1
    assert 64 * 4096 <= resident() - before < room.nbytes / 4
    assert not room[:, 1:].any()


def test_a_step_is_one_run_where_keys_and_values_have_one_buffer(decoder):
    assert batch_decoder(decoder, 2, 8).batched is decoder.config.share_buffer


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_sequences_of_a_slot_share_a_captured_graph(tiny_model, monkeypatch, cuda_graph):
    """Without a GPU: a decoder on the CPU that says that it is on a GPU, and counted ones for its slots."""
    given: Any = Decoder.load(tiny_model, library=False)
    given.provider = Provider("cuda", cuda_graph=cuda_graph)
    made, starts = [], []

    def make(*arguments):
        made.append(SimpleNamespace(start=starts.append, length=0))
        return made[-1]

    monkeypatch.setattr("runtime_ext.batch_decoder.Decoder", make)
    batch = batch_decoder(given, 2, 8)
    for _ in range(3):
        held = [batch.open(), batch.open()]
        for sequence in held:
            batch.close(sequence)
    assert len(made) == (2 if cuda_graph else 6)
    assert starts == [8] * 6


@pytest.mark.parametrize("slots", [1, 2])
def test_wrong_use_is_refused_and_changes_nothing(tiny_model, slots):
    batch = load_batch_decoder(tiny_model, slots, 6, library=False)
    held = [batch.open() for _ in range(slots)]
    with pytest.raises(InputError, match=f"all {slots} slots are taken"):
        batch.open()
    with pytest.raises(InputError, match="at least one token, got none"):
        batch.read(held[0], [])
    with pytest.raises(InputError, match="7 tokens, but a slot has room for 6"):
        batch.read(held[0], list(range(7)))
    with pytest.raises(InputError, match="token id 100000"):
        batch.step(held, [1] * (slots - 1) + [100000])
    with pytest.raises(InputError, match="one of them twice"):
        batch.step([held[0]] * 2, [1, 2])
    assert [sequence.length for sequence in held] == [0] * slots
    batch.close(held[0])
    for use in (lambda: batch.close(held[0]), lambda: batch.read(held[0], [1])):
        with pytest.raises(InputError, match="the sequence has no slot"):
            use()


@pytest.mark.parametrize(("slots", "capacity"), [(0, 8), (1, -1), (1, tiny.CONTEXT_LENGTH + 1)])
def test_slots_and_room_have_to_make_sense(tiny_model, slots, capacity):
    with pytest.raises(InputError, match=r"expected at least 1 slot|do not fit the context"):
        load_batch_decoder(tiny_model, slots, capacity, library=False)
