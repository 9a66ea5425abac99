"""onnxruntime-genai runs an exported folder wherever it lies, and its tokenizer gives what transformers gives."""

# onnxruntime_genai fills its module at run time, where a type checker cannot see it.
# pyright: reportAttributeAccessIssue=false

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as genai
import pytest
import transformers

import runtime_ext
from exporter.options import ExportOptions
from exporter.pipeline import export
from runtime_ext.decoder import Decoder
from tests.support.sessions import logits
from tests.support.tiny_models import make_model
from tests.support.tiny_tokenizers import write_tokenizer

HOWTO = Path(__file__).resolve().parents[2] / "docs" / "howto" / "genai.md"
BOS = 1
PROMPT = [5, 6, 7]
STEPS = 4
TEXT = "The capital of France is"
CHAT_TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An export of a tiny Llama with a tokenizer that puts a BOS in front, the library beside it."""
    work = tmp_path_factory.mktemp("genai")
    model = make_model("llama", work / "model")
    write_tokenizer(
        model, chat_template="{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    )
    export(model, work / "out" / "model.onnx", ExportOptions(), library=runtime_ext.library_path())
    return work / "out"


@pytest.fixture(scope="module")
def greedy(folder) -> list[int]:
    """The sequence that ONNX Runtime gives with the library."""
    ids = list(PROMPT)
    for _ in range(STEPS):
        ids.append(int(logits(folder / "model.onnx", np.array([ids]))[0, -1].argmax()))
    return ids


def sequence(model: genai.Model) -> list[int]:
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=len(PROMPT) + STEPS, do_sample=False)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(PROMPT)
    while not generator.is_done():
        generator.generate_next_token()
    return generator.get_sequence(0).tolist()


@pytest.mark.parametrize("name", ["bitnet", "gemma4_text"])
def test_models_of_these_types_run(name, tmp_path):
    """Gemma 4 has heads of two sizes, and fewer caches than layers."""
    source = make_model(name, tmp_path / "model")
    write_tokenizer(source)
    export(source, tmp_path / "out" / "model.onnx", ExportOptions(), library=runtime_ext.library_path())
    ids = list(PROMPT)
    for _ in range(STEPS):
        ids.append(int(logits(tmp_path / "out" / "model.onnx", np.array([ids]))[0, -1].argmax()))
    assert sequence(genai.Model(str(tmp_path / "out"))) == ids


@pytest.fixture(scope="module")
def verifying(tmp_path_factory) -> Path:
    """A folder whose model gives all logits, which onnxruntime-genai checks guesses by, with a draft inside."""
    work = tmp_path_factory.mktemp("verifying")
    source, library = make_model("llama", work / "model"), runtime_ext.library_path()
    write_tokenizer(source)
    export(source, work / "out" / "model.onnx", ExportOptions(logits="all"), library=library)
    export(source, work / "out" / "draft" / "model.onnx", ExportOptions(planes=2), library=library)
    return work / "out"


def repeated(model: genai.Model, **options: int) -> tuple[list[int], dict[str, Any]]:
    """Greedy tokens after a text that repeats itself, and with options what onnxruntime-genai says of its guesses."""
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=48, do_sample=False)
    if options:
        parameters.set_speculative_options(**options)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(PROMPT * 3)
    while not generator.is_done():
        generator.generate_next_token()
    return generator.get_sequence(0).tolist(), generator.get_speculative_stats() if options else {}


def test_its_guesses_from_the_text_change_no_token(verifying):
    config = genai.Config(str(verifying))
    config.overlay(runtime_ext.genai_overlay())
    model = genai.Model(config)
    tokens, found = repeated(model, ngram_size=2, max_draft_tokens=5)
    assert tokens == repeated(model)[0]
    assert found["draft_tokens_accepted"] > 0


def test_its_guesses_from_a_draft_change_no_token(verifying, tmp_path):
    both = Path(shutil.copytree(verifying, tmp_path / "both"))
    settings, draft = (json.loads((path / "genai_config.json").read_text()) for path in (both, both / "draft"))
    for decoder in (settings["model"]["decoder"], draft["model"]["decoder"]):
        decoder["session_options"]["custom_ops_library"] = runtime_ext.library_path().name
    draft["model"]["decoder"]["filename"] = "draft/model.onnx"
    settings["model"] |= {"type": "speculative", "draft": draft["model"]["decoder"]}
    settings["speculative"] = {"max_draft_tokens": 4}
    (both / "genai_config.json").write_text(json.dumps(settings))
    tokens, found = repeated(genai.Model(str(both)), max_draft_tokens=4)
    assert tokens == repeated(genai.Model(str(verifying)))[0]
    assert found["draft_forward_passes"] > 0


def test_a_model_that_gives_the_last_logits_alone_is_refused_guesses(folder):
    with pytest.raises(RuntimeError, match="pruned last-token-only logits"):
        repeated(genai.Model(str(folder)), ngram_size=2)


@pytest.mark.parametrize("fast", [False, True], ids=["function", "library"])
def test_a_cache_of_int8_is_made_as_the_model_declares_it(tmp_path, fast):
    """Its rows are longer than a head, which genai_config.json says; the type is the model's own."""
    source = make_model("llama", tmp_path / "model")
    write_tokenizer(source)
    path = tmp_path / "out" / "model.onnx"
    export(source, path, ExportOptions(kv_cache="int8"), library=runtime_ext.library_path())
    decoder = Decoder.load(path, library=fast)
    decoder.start(len(PROMPT) + STEPS)
    ids = list(PROMPT)
    row = decoder.step(ids)
    for _ in range(STEPS):
        ids.append(int(row.argmax()))
        row = decoder.step(ids[-1:]) if len(ids) < len(PROMPT) + STEPS else row
    config = genai.Config(str(path.parent))
    if fast:
        config.overlay(runtime_ext.genai_overlay())
    assert sequence(genai.Model(config)) == ids


def packed_copies() -> int:
    """Weights that the library holds in this process."""
    return runtime_ext.describe()["packed"]["copies"]


def links_of_a_hub_cache(folder: Path, tmp_path: Path) -> Path:
    """Make the folder of a snapshot: links to files that are named by their digests and lie elsewhere."""
    blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "1"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for index, file in enumerate(sorted(folder.iterdir())):
        shutil.copyfile(file, blobs / str(index))
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", str(index)))
    return snapshot


def without_library(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("libdualbinary*")))


def library_of_another_system(folder: Path, tmp_path: Path) -> Path:
    copy = without_library(folder, tmp_path)
    (copy / "libdualbinary.so").write_bytes(b"MZ of another system")
    return copy


def read_only(folder: Path, tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    for file in (*copy.iterdir(), copy):
        file.chmod(0o555)
    return copy


@pytest.mark.parametrize(
    "place",
    [links_of_a_hub_cache, without_library, library_of_another_system, read_only],
    ids=lambda place: place.__name__,
)
@pytest.mark.parametrize("fast", [False, True], ids=["function", "library"])
def test_a_folder_runs_wherever_it_lies(folder, greedy, tmp_path, monkeypatch, place, fast):
    there = place(folder, tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    config = genai.Config(str(there))
    if fast:
        config.overlay(runtime_ext.genai_overlay())
    copies = packed_copies()

    model = genai.Model(config)

    assert (packed_copies() > copies) == fast
    assert sequence(model) == greedy
    there.chmod(0o755)


def test_a_folder_runs_under_a_relative_name(folder, greedy, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert sequence(genai.Model(folder.name)) == greedy


def python_of_the_page() -> list[str]:
    """The blocks of Python on the page."""
    return re.findall(r"(?ms)^```python\n(.*?)^```$", HOWTO.read_text(encoding="utf-8"))


def test_the_documented_lines_give_the_prompts_of_transformers(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder.parent)
    names: dict[str, Any] = {}
    copies = packed_copies()
    text, chat = python_of_the_page()

    exec(text, names)

    assert packed_copies() > copies, "without the library"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    expected = tokenizer(TEXT)["input_ids"]
    assert expected[0] == BOS, "no BOS to lose"
    found = names["generator"].get_sequence(0).tolist()
    assert found[: len(expected)] == expected
    assert len(found) > len(expected)
    assert capsys.readouterr().out.startswith(TEXT)

    exec(chat, names)

    expected = tokenizer.apply_chat_template(names["messages"], add_generation_prompt=True, return_dict=False)
    assert names["ids"].tolist() == expected
    assert expected.count(BOS) == 1
