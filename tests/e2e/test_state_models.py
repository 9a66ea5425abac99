"""Models with states in place of keys and values: every host that the project has gives the same tokens."""

# onnxruntime_genai fills its module at run time, where a type checker cannot see it.
# pyright: reportAttributeAccessIssue=false

import subprocess

import numpy as np
import onnxruntime_genai as genai
import pytest

import runtime_ext
from dualbinary import DualBinaryError, InputError
from exporter.options import ExportOptions
from exporter.pipeline import export
from runtime_ext.decoder import Decoder
from tests.support.measures import perplexity
from tests.support.sessions import open_session, step
from tests.support.tiny_models import WITH_STATES, make_model

PROMPT = [5, 6, 7, 9, 11]
STEPS = 6
LENGTH = len(PROMPT) + STEPS


@pytest.fixture(scope="module", params=WITH_STATES)
def model(request, tmp_path_factory):
    """The exported file of a tiny model."""
    work = tmp_path_factory.mktemp(request.param)
    source = make_model(request.param, work / "model")
    export(source, work / "out" / "model.onnx", ExportOptions(), library=runtime_ext.library_path())
    return work / "out" / "model.onnx"


@pytest.fixture(scope="module")
def greedy(model) -> list[int]:
    """The sequence of runs without any state: each reads all tokens anew."""
    ids, session = list(PROMPT), open_session(str(model))
    while len(ids) < LENGTH:
        found, _ = step(session, np.array([ids]), np.ones((1, len(ids)), np.int64))
        ids.append(int(found[0, -1].argmax()))
    return ids


class Failing:
    """A session whose runs fail."""

    def run_with_iobinding(self, *_):
        raise RuntimeError("out of memory")


def continued(decoder: Decoder) -> list[int]:
    decoder.start(LENGTH)
    ids, found = list(PROMPT), decoder.step(PROMPT)
    while len(ids) < LENGTH:
        ids.append(int(found.argmax()))
        found = decoder.step(ids[-1:]) if len(ids) < LENGTH else found
    return ids


def test_the_decoder_continues_as_runs_without_states_do(model, greedy):
    decoder = Decoder.load(model)

    assert continued(decoder) == greedy
    assert continued(decoder) == greedy  # a new sequence begins with states of zeros
    layers = sum(value.name.endswith(".key") for value in open_session(str(model)).get_inputs())
    assert decoder.cache_bytes_per_token == layers * 2 * 2 * 32 * 4  # keys and values


def test_a_prompt_in_pieces_and_a_growing_cache_change_nothing(model, greedy, monkeypatch, tmp_path):
    monkeypatch.setattr("runtime_ext.decoder.PROMPT_CHUNK", 2)
    for file in model.parent.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "genai_config.json").unlink()
    decoder = Decoder.load(tmp_path / model.name)

    assert not decoder.config.share_buffer
    assert continued(decoder) == greedy


def test_a_step_that_fails_leaves_the_states_as_they_were(model, greedy):
    decoder = Decoder.load(model)
    decoder.start(LENGTH)
    decoder.step(PROMPT[:-1])
    session, decoder.session = decoder.session, Failing()
    with pytest.raises(DualBinaryError, match="out of memory"):
        decoder.step(PROMPT[-1:])
    decoder.session = session

    assert int(decoder.step(PROMPT[-1:]).argmax()) == greedy[len(PROMPT)]


def test_static_steps_are_refused(model):
    with pytest.raises(InputError, match=r"cuda_graph.*: layers of this model carry states"):
        Decoder.load(model, static_steps=True)


def test_genai_writes_the_same_tokens(model, greedy):
    config = genai.Config(str(model.parent))
    config.overlay(runtime_ext.genai_overlay())
    parameters = genai.GeneratorParams(genai.Model(config))
    parameters.set_search_options(max_length=LENGTH, min_length=LENGTH, do_sample=False)
    generator = genai.Generator(genai.Model(config), parameters)
    generator.append_tokens(PROMPT)
    while not generator.is_done():
        generator.generate_next_token()

    assert generator.get_sequence(0).tolist() == greedy


def test_the_cpp_host_writes_the_same_tokens(model, greedy, cpp_host):
    words = [str(word) for word in (model, runtime_ext.library_path(), STEPS, *PROMPT)]
    done = subprocess.run([cpp_host, *words], check=False, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert [int(token) for token in done.stdout.split()] == greedy[len(PROMPT) :]


def test_perplexity_is_read_through_the_states(model, greedy):
    session, losses = open_session(str(model)), []
    for end in range(1, LENGTH):
        found, _ = step(session, np.array([greedy[:end]]), np.ones((1, end), np.int64))
        row = found[0, -1].astype(np.float64)
        losses.append(np.log(np.exp(row - row.max()).sum()) + row.max() - row[greedy[end]])

    assert perplexity(Decoder.load(model), np.array([greedy])) == pytest.approx(np.exp(np.mean(losses)), rel=1e-3)
