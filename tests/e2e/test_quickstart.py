"""The quickstart is what a reader copies, so it must keep working and agree with the commands."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from examples import quickstart
from exporter.options import ExportOptions
from exporter.pipeline import export
from runtime_ext.decoder import Decoder
from runtime_ext.generate import Generation, generate
from runtime_ext.library import library_path
from runtime_ext.sampling import Sampler
from tests.support import tiny_models, tiny_sessions, tiny_tokenizers

TEXT = "Hello"


def check(model: Path, capsys) -> None:
    """The quickstart prints the prompt and what `generate` continues; it does not stop at the end of a text."""
    tokenizer = Tokenizer.from_file(str(model.with_name("tokenizer.json")))
    prompt = tokenizer.encode(TEXT).ids
    tokens = list(generate(Decoder.load(model), prompt, quickstart.NEW_TOKENS, Sampler(), Generation([])))
    assert len(tokens) == quickstart.NEW_TOKENS
    quickstart.main([str(model), TEXT])
    assert capsys.readouterr().out.rstrip("\n") == tokenizer.decode([*prompt, *tokens])


def test_quickstart_prints_the_prompt_and_what_generate_continues(tmp_path, capsys):
    check(tiny_sessions.make_model(tiny_sessions.make_weights(tmp_path / "weights"), tmp_path / "model"), capsys)


@pytest.mark.parametrize(
    ("name", "options"),
    [("gpt2", ExportOptions()), ("llama", ExportOptions(kv_cache="int8")), ("llama", ExportOptions(dtype="fp16"))],
    ids=["position_ids", "int8", "fp16"],
)
def test_quickstart_feeds_what_a_model_declares(tmp_path, capsys, name, options):
    source = tiny_models.make_model(name, tmp_path / "model")
    tiny_tokenizers.write_tokenizer(source)
    export(source, tmp_path / "out" / "model.onnx", options, library=library_path())
    check(tmp_path / "out" / "model.onnx", capsys)


def test_quickstart_says_what_it_takes(capsys):
    with pytest.raises(SystemExit) as ended:
        quickstart.main([])
    assert ended.value.code == 2
    assert "OUT.onnx TEXT" in capsys.readouterr().err
