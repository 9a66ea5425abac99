"""What an export says of onnxruntime-genai is what onnxruntime-genai does."""

# onnxruntime_genai fills its module at run time, where a type checker cannot see it.
# pyright: reportAttributeAccessIssue=false

import json

import onnxruntime_genai as genai
import pytest
import transformers
from tokenizers import normalizers

from exporter.genai_notes import genai_notes, template_differences
from exporter.options import ExportOptions
from exporter.pipeline import export
from tests.support.tiny_tokenizers import write_tokenizer

MESSAGES = [{"role": "system", "content": " be kind "}, {"role": "user", "content": "Is <b>this</b>\nso "}]
CONTENT = "messages[1].content"
SAME = [
    f"{{{{ {CONTENT}.strip() }}}}{{{{ {CONTENT}.split('<b>')[-1] }}}}{{{{ {CONTENT} | trim | tojson }}}}",
    "{% for m in messages %}{{ loop.index0 }}{{ m.role }}{% endfor %}{% if add_generation_prompt %}a{% endif %}",
    "{%- for m in messages %}\n    {{- m.content }}\n{%- endfor -%}\n",
    "{% set ns = namespace(a=1) %}{% set ns.a = 2 %}{{ ns.a }}{% set x %}block{% endset %}{{ x }}",
    "{% macro f(x, y='d') %}[{{ x }}{{ y }}]{% endmacro %}{{ f('a') }}",
    "{{ 'role' in messages[0] }}{{ messages[0].role in ['system'] }}{{ 'content' not in messages[0] }}",
    "{% for k, v in messages[0] | dictsort %}{{ k }}{{ v }}{% endfor %}{% generation %}g{% endgeneration %}",
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ x is defined }}{{ bos_token }}",
    "{% if not tools is defined %}{% set tools = none %}{% endif %}{{ tools is none }}",
    "{{ 'a' ~ 1 }}{{ messages[1:] | length }}{{ messages[0].get('role') }}{{ strftime_now('%Y') }}",
]
OTHERWISE = [
    f"{{{{ {CONTENT}.upper() }}}}",
    f"{{{{ {CONTENT}.replace('s', 'z') }}}}",
    f"{{{{ {CONTENT} | upper }}}}",
    f"{{{{ {CONTENT} | replace('s', 'z') }}}}",
    f"{{{{ {CONTENT}.split('<b>', 1)[1] }}}}",
    f"{{{{ '<b>' in {CONTENT} }}}}",
    f"{{{{ 'Is' in {CONTENT} }}}}",
    f"{{% set text = {CONTENT} %}}{{{{ '</b>' in text }}}}",
    "{{ messages | map(attribute='role') | first }}",
    "{% macro f(x) %}{{ x }}{{ caller() }}{% endmacro %}{% call f('a') %}b{% endcall %}",
    "{% filter trim %} a {% endfilter %}{% filter upper %}a{% endfilter %}",
    "{% raw %}{{ x }}{% endraw %}",
    "{% with a = 1 %}{{ a }}{% endwith %}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "{{ messages | length is odd }}",
    "{{ tools is none }}",
    "{{ 1 < 2 <= 3 }}",
    "{{ pad_token }}",
    "{{ '%s' % 'a' }}",
    "{% if true %}\nline\n{% endif %}\nz",
    "  {% if true %}a{% endif %}",
    "{# c #}\nx",
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """What onnxruntime-genai needs to make a tokenizer."""
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory)
    decoder = {"filename": "model.onnx", "head_size": 4, "hidden_size": 4, "num_attention_heads": 1}
    decoder |= {"num_hidden_layers": 1, "num_key_value_heads": 1}
    model = {"type": "llama", "vocab_size": 99, "context_length": 8, "eos_token_id": 2, "decoder": decoder}
    (directory / "genai_config.json").write_text(json.dumps({"model": model, "search": {"max_length": 8}}))
    return directory


def renders_alike(directory, template: str) -> bool:
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    options = {"tokenize": False, "add_generation_prompt": True}
    right = tokenizer.apply_chat_template(MESSAGES, chat_template=template, **options)
    try:
        messages = json.dumps(MESSAGES)
        found = genai.Tokenizer(str(directory)).apply_chat_template(
            messages, template_str=template, add_generation_prompt=True
        )
    except Exception:  # its exceptions share no narrower base
        return False
    return found == right


@pytest.mark.parametrize("template", SAME)
def test_templates_without_a_note_render_as_in_transformers(directory, template):
    assert template_differences(template) == []
    assert renders_alike(directory, template)


@pytest.mark.parametrize("template", OTHERWISE)
def test_templates_with_a_note_render_otherwise_than_in_transformers(directory, template):
    assert template_differences(template)
    assert not renders_alike(directory, template)


def test_a_note_names_what_differs_and_where_to_render(tmp_path):
    write_tokenizer(tmp_path, bos=False, chat_template="{{ messages[0].content.upper() | replace('a', 'b') }}")

    (note,) = genai_notes(tmp_path)

    assert ".upper()" in note
    assert "the filter replace" in note
    assert "render it with transformers" in note


@pytest.mark.parametrize(
    "template",
    [
        "{{ " + "(" * 5000 + ")" * 5000 + " }}",
        "{{ x" + " | trim" * 5000 + " }}",
        "{{ " + "1" * 5000 + " }}",
    ],
    ids=["brackets", "filters", "digits"],
)
def test_a_template_that_nothing_renders_is_no_difference(template):
    assert template_differences(template) == []


def test_a_normalizer_that_is_left_out_is_said(tmp_path):
    tokenizer = write_tokenizer(tmp_path, bos=False)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(" ", "_"), normalizers.Lowercase()])
    tokenizer.save(str(tmp_path / "tokenizer.json"))

    (note,) = genai_notes(tmp_path)

    assert "the normalizer Lowercase" in note


@pytest.mark.parametrize("bos", [True, False])
def test_an_export_says_whether_onnxruntime_genai_loses_the_bos(tiny_model, tmp_path, bos):
    model = tiny_model("llama")
    write_tokenizer(model, bos=bos)

    warnings = export(model, tmp_path / "out" / "model.onnx", ExportOptions()).warnings

    said = [line for line in warnings if "leaves out <s>" in line]
    assert len(said) == bos
    tokenizer = genai.Tokenizer(genai.Config(str(tmp_path / "out")))
    right = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")("some text")["input_ids"]
    assert (tokenizer.encode("some text").tolist() == right) == (not bos)
    tokenizer.update_options(add_special_tokens="true")
    assert tokenizer.encode("some text").tolist() == right
