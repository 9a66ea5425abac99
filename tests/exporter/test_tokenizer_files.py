"""The tokenizer's files beside an export, and token ids that its table lacks."""

import json

import numpy as np
import pytest

from exporter.__main__ import main
from exporter.options import ExportOptions
from exporter.pipeline import export
from runtime_ext.text import TextCodec
from tests.support import tiny_sessions as tiny
from tests.support.quick_fit import QUICK
from tests.support.sessions import logits
from tests.support.tiny_models import VOCABULARY


def export_with(tiny_model, tmp_path, added=0, settings=None):
    """What the export of a model of 256 ids says of a tokenizer that has `added` more."""
    directory = tiny_model("llama")
    tokenizer = tiny.make_tokenizer(special=[f"<{n}>" for n in range(added)])
    tokenizer.save(str(directory / "tokenizer.json"))
    tiny.write_json(directory / "tokenizer_config.json", settings or {})
    out = tmp_path / "out" / "model.onnx"
    result = export(directory, out, ExportOptions(**QUICK))
    assert json.loads((out.parent / "export_report.json").read_text())["warnings"] == list(result.warnings)
    return [warning for warning in result.warnings if "tokenizer" in warning]


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 16, 32])
@pytest.mark.parametrize("name", ["llama", "llama_tied"])
def test_an_id_beyond_the_table_fails_and_is_named(kept, name, bits):
    _, out = kept(name, embedding_bits=bits)
    assert np.isfinite(logits(out, np.array([[3, VOCABULARY - 1]]))).all()
    with pytest.raises(Exception, match=f"idx={VOCABULARY} "):  # ONNX Runtime's exceptions share no narrower base
        logits(out, np.array([[3, VOCABULARY]]))


def test_a_tokenizer_that_fits_the_table_is_not_mentioned(tiny_model, tmp_path):
    assert export_with(tiny_model, tmp_path) == []


def test_a_tokenizer_larger_than_the_table_is_mentioned(tiny_model, tmp_path):
    (warning,) = export_with(tiny_model, tmp_path, added=3)
    assert "ids up to 258, the token embedding only 256 rows" in warning


def test_tokens_that_only_the_configuration_adds_count(tiny_model, tmp_path):
    settings = {"added_tokens_decoder": {"300": {"content": "<x>", "special": True}}}
    (warning,) = export_with(tiny_model, tmp_path, settings=settings)
    assert "ids up to 300" in warning


def test_the_command_prints_the_warning_as_a_note(tiny_model, tmp_path, capsys):
    directory = tiny_model("llama")
    tiny.make_tokenizer().save(str(directory / "tokenizer.json"))
    assert main([str(directory), str(tmp_path / "out" / "model.onnx"), "--quiet", "--no-check"]) == 0
    assert "note: the tokenizer has ids up to 258" in capsys.readouterr().err


def test_a_damaged_tokenizer_is_mentioned(tiny_model, tmp_path):
    directory = tiny_model("llama")
    (directory / "tokenizer.json").write_text("{}")
    result = export(directory, tmp_path / "out" / "model.onnx", ExportOptions(**QUICK))
    assert any("tokenizer.json is not a tokenizer" in warning for warning in result.warnings)


@pytest.mark.parametrize(
    "place", ["chat_template.json", "chat_template.jinja", "additional_chat_templates/default.jinja"]
)
def test_a_chat_template_comes_along_from_all_its_places(tiny_model, tmp_path, place):
    directory = tiny_model("llama")
    tiny.make_tokenizer().save(str(directory / "tokenizer.json"))
    (directory / "chat_template.jinja").write_text("of the lower place")
    (directory / place).parent.mkdir(exist_ok=True)
    if place.endswith(".json"):
        (directory / "chat_template.jinja").unlink()
        tiny.write_json(directory / place, {"chat_template": tiny.CHAT_TEMPLATE})
    else:
        (directory / place).write_text(tiny.CHAT_TEMPLATE)
    export(directory, tmp_path / "out" / "model.onnx", ExportOptions(**QUICK))
    assert TextCodec(tmp_path / "out").encode_chat("hi") == TextCodec(directory).encode_chat("hi")
    assert "hi" in TextCodec(tmp_path / "out").decode(TextCodec(tmp_path / "out").encode_chat("hi"))
