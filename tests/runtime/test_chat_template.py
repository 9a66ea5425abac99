"""Chat templates and tokenizer files, held against what transformers makes of the same directory."""

import pytest
import transformers
from tokenizers import AddedToken

from dualbinary import InputError
from runtime_ext.text import TextCodec
from tests.support import tiny_sessions as tiny

MESSAGE = 'é <b> "5"'
PLAIN = (
    "{% for m in messages %}<user>{{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SETTINGS: dict[str, object] = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": tiny.END}


@pytest.fixture
def directory(tmp_path):
    tiny.make_tokenizer().save(str(tmp_path / "tokenizer.json"))
    tiny.write_json(tmp_path / "tokenizer_config.json", SETTINGS)
    return tmp_path


def write_template(directory, source, name="chat_template.jinja"):
    (directory / name).parent.mkdir(exist_ok=True)
    (directory / name).write_text(source, encoding="utf-8", newline="")


def of_transformers(directory, message=MESSAGE):
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    messages = [{"role": "user", "content": message}]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]


def assert_same(directory):
    codec = TextCodec(directory)
    wanted = of_transformers(directory)
    assert codec.decode(codec.encode_chat(MESSAGE)) == codec.decode(wanted)
    assert codec.encode_chat(MESSAGE) == wanted


TEMPLATES = {
    "plain": PLAIN,
    "date": "{{ strftime_now('%d %b %Y') }}" + PLAIN,
    "date, if there is such a function": "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% endif %}",
    "training mark": "{% for m in messages %}{%- generation -%} {{ m.content }} {%- endgeneration %} x{% endfor %}",
    "names set in a training mark": "{% set a = 1 %}{% generation %}{% set a = 2 %}{{ a }}{% endgeneration %}{{ a }}",
    "JSON of letters and HTML": "{{ messages | tojson }}{{ {'z': '<&>', 'a': 'é'} | tojson }}",
    "JSON with settings": "{{ {'z': [1, 'é'], 'a': none} | tojson(indent=2, ensure_ascii=true, sort_keys=true) }}",
    "JSON in two separators": "{{ {'a': [1, 2]} | tojson(separators=(',', ':')) }}",
    "tools that are none": "{% if tools is not none %}T{% endif %}{{ tools is none }}{{ tools is defined }}",
    "documents that are none": "{{ documents is none }}{{ documents }}",
    "a name that nobody gives": "{{ builtin_tools is defined }}{{ enable_thinking }}|{{ date_string }}",
    "a special token that is not there": "{{ bos_token }}|{{ bos_token is defined }}|{{ eos_token }}",
    "loops that end early": "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}"
    "{% if i > 3 %}{% break %}{% endif %}{% endfor %}",
    "blocks on lines of their own": "{% for m in messages %}\n    {% if true %}\n  {{ m.content }}\n"
    "    {% endif %}\n{% endfor %}\n",
    "minus signs and line ends": "a  \n{%- if true -%}\n  b  {{- 'c' -}}  \n{%- endif %}\r\n d\n",
    "names that outlive a loop": "{% set n = namespace(i=0, s='') %}{% for c in 'abc' %}{% set n.i = n.i + 1 %}"
    "{% set n.s = n.s ~ c %}{% endfor %}{{ n.i }}{{ n.s }}",
    "macros": "{% macro f(x, y='k') %}[{{ x }}{{ y }}{{ varargs }}]{% endmacro %}{{ f(1) }}{{ f(1, 2, 3) }}"
    "{% macro g() %}<{{ caller() }}>{% endmacro %}{% call g() %}{{ messages[0].role }}{% endcall %}",
    "filters": "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list }}"
    "{{ {'b': 1, 'a': 2} | dictsort }}{{ ' x ' | trim }}{{ [3, 1] | sort | join(',') }}{{ '\na\nb' | indent(2) }}",
    "methods of strings": "{{ 'a</think>b'.split('</think>')[-1].lstrip('\\n') }}"
    "{{ messages[0]['content'].strip().upper() }}",
    "items": "{% for k, v in {'a': {'b': [1]}} | items %}{{ k }}{{ v.b }}{{ loop.first }}{{ loop.last }}{% endfor %}",
    "neighbours in a loop": "{% for c in 'abc' %}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.index0 }}{% endfor %}",
    "text set in a block": "{% set a %}x {{ messages[0].content }}{% endset %}{{ a | length }}{{ a }}",
    "loops over themselves": "{% for x in [[1, [2]], [3]] recursive %}"
    "{{ loop(x) if x is iterable else x }}{% endfor %}",
    "a filter over a block": "{% filter upper %}a{{ messages[0].role }}{% endfilter %}",
    "types": "{{ messages is string }}{{ messages[0] is mapping }}{{ messages is iterable }}{{ 1 is number }}",
    "arithmetic": "{{ 7 // 2 }}{{ 2 ** 10 }}{{ 'ab' * 3 }}{{ 3 * 'ab' }}{{ 1.5 * 2 }}{{ [0] * 2 }}{{ 'a%s' % 1 }}",
    "sums": "{{ 1 + 2 }}{{ 'a' + 'b' }}{{ [1] + [2] }}{{ 1 ~ 'x' ~ none }}{{ 'a'.ljust(3) }}{{ -1 + 0.5 }}",
    "the ends of a list": "{{ messages[0]['content'][1:] }}{{ messages[::-1][0].role }}{{ messages[-1] }}",
    "attributes that no template sees": "{{ ''|attr('__class__') }}{{ strftime_now.__globals__ is defined }}",
    "HTML as it is": "{{ '<a href=\"x\">' }}{{ messages[0].content | safe }}{{ '<' | escape }}",
}


@pytest.mark.parametrize("source", TEMPLATES.values(), ids=TEMPLATES)
def test_a_template_gives_the_text_of_transformers(directory, source):
    write_template(directory, source)
    assert_same(directory)


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ missing.content }}",
        "{{ bos_token + 'a' }}",
        "{% for t in tools %}{% endfor %}",
        "{{ nothing | tojson }}",
        "{% generation %}",
        "{{ messages.append(1) }}",
    ],
)
def test_what_transformers_refuses_is_refused(directory, source):
    write_template(directory, source)
    with pytest.raises(Exception):  # noqa: B017 - of any kind
        of_transformers(directory)
    with pytest.raises(InputError, match="chat template failed"):
        TextCodec(directory).encode_chat(MESSAGE)


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% for a in range(9) %}{{ f(n - 1) if n }}{% endfor %}{% endmacro %}{{ f(9) }}",
        "{{ 'a' * 10 ** 12 }}",
        "{{ 10 ** 12 * [0] }}",
        "{{ 9 ** 999999999 }}",
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set x = 'a' * 10 ** 5 %}{% for i in range(90000) %}{{ x }}{% endfor %}",
        "{% set x = 'a' * 9999 %}{% set y %}{% for i in range(9999) %}{{ x }}{% endfor %}{% endset %}{{ y | length }}",
        "{{ 'a'.ljust(10 ** 10) | length }}",
        "{% set n = namespace(x=3) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ strftime_now.__globals__.values() }}",
        "{{ (''|attr('__class__')).mro() }}",
        "{{ 'x'.format.__self__.__class__.__mro__ }}",
    ],
)
def test_a_template_that_reaches_out_or_does_not_end_is_refused(directory, source):
    write_template(directory, source)
    with pytest.raises(InputError, match="chat template failed"):
        TextCodec(directory).encode_chat(MESSAGE)


A, B, C = ("<user>" + letter + PLAIN for letter in "abc")
PLACES = {
    "in the configuration": ({"tokenizer_config.json": {"chat_template": A}}, {}),
    "named in the configuration": (
        {
            "tokenizer_config.json": {
                "chat_template": [{"name": "rag", "template": B}, {"name": "default", "template": A}]
            }
        },
        {},
    ),
    "an object in the configuration": ({"tokenizer_config.json": {"chat_template": {"rag": B, "default": A}}}, {}),
    "a file before the configuration": ({"tokenizer_config.json": {"chat_template": A}}, {"chat_template.jinja": B}),
    "a folder": ({}, {"additional_chat_templates/default.jinja": A, "additional_chat_templates/tool_use.jinja": B}),
    "a folder before the file": ({}, {"chat_template.jinja": B, "additional_chat_templates/default.jinja": A}),
    "a file beside a folder": ({}, {"chat_template.jinja": A, "additional_chat_templates/tool_use.jinja": B}),
}


@pytest.mark.parametrize(("configurations", "files"), PLACES.values(), ids=PLACES)
def test_the_template_is_the_one_that_transformers_takes(directory, configurations, files):
    for name, values in configurations.items():
        tiny.write_json(directory / name, SETTINGS | values)
    for name, source in files.items():
        write_template(directory, source, name)
    assert_same(directory)


def test_a_template_of_a_processor_is_the_last_choice(directory):
    tiny.write_json(directory / "chat_template.json", {"chat_template": PLAIN})
    user, end, assistant = (tiny.BYTES + tiny.SPECIAL_TOKENS.index(name) for name in ("<user>", "<end>", "<assistant>"))
    codec = TextCodec(directory)
    assert codec.encode_chat("hi") == [user, *codec.encode("hi"), end, assistant]


@pytest.mark.parametrize("place", ["folder", "configuration"])
def test_templates_of_which_none_is_the_default_are_named(directory, place):
    if place == "folder":
        write_template(directory, PLAIN, "additional_chat_templates/tool_use.jinja")
    else:
        templates = [{"name": "tool_use", "template": PLAIN}]
        tiny.write_json(directory / "tokenizer_config.json", SETTINGS | {"chat_template": templates})
    with pytest.raises(InputError, match=r"expected a chat template called default, got tool_use"):
        TextCodec(directory).encode_chat("hi")


def test_a_template_of_another_encoding_is_named(directory):
    (directory / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"chat_template\.jinja: not UTF-8"):
        TextCodec(directory).encode_chat("hi")


NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask", "image", "boi", "eot")
ALL_NAMES = "|".join(f"{{{{ {name}_token }}}}" for name in NAMES)
AS_OBJECT = {"__type": "AddedToken", "content": "<bos>", "lstrip": False, "rstrip": False, "normalized": False}
OBJECT = {"content": "<bos>", "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
TOKENIZERS = {
    "all usual names": ({f"{name}_token": f"<{name}>" for name in NAMES[:7]}, {}, {}),
    "names of the model's own": ({"image_token": "<image>", "boi_token": "<user>"}, {}, {}),
    "names of the model's own, as an object": ({"extra_special_tokens": {"eot_token": "<eot>"}}, {}, {}),
    "tokens without names": ({"extra_special_tokens": ["<x>", "<y>"]}, {}, {}),
    "tokens without names, formerly": ({"additional_special_tokens": ["<x>", "<y>"]}, {}, {}),
    "a token as an object": ({"bos_token": AS_OBJECT}, {}, {}),
    "no token": ({"bos_token": None}, {}, {}),
    "flags that are no tokens": ({"add_bos_token": True, "add_eos_token": True, "bos_token": "<bos>"}, {}, {}),
    "a map": ({}, {"bos_token": "<bos>", "cls_token": "<user>"}, {}),
    "a map of objects": ({}, {"bos_token": OBJECT}, {}),
    "a map before the configuration": ({"bos_token": "<x>"}, {"bos_token": "<bos>"}, {}),
    "a map of tokens without names": ({}, {"additional_special_tokens": ["<x>", "<bos>"]}, {}),
    "a map that no longer counts": (
        {"bos_token": "<x>", "added_tokens_decoder": {"300": {"content": "<x>", "special": True}}},
        {"bos_token": "<bos>"},
        {},
    ),
    "listed tokens": (
        {
            "added_tokens_decoder": {
                "261": {"content": "<y>", "special": False, "normalized": True},
                "260": {"content": "<x>", "special": True, "lstrip": True, "rstrip": True, "normalized": False},
            }
        },
        {},
        {},
    ),
    "added tokens": ({"bos_token": "<y>"}, {}, {"<y>": 260, "<x>": 259}),
    "special tokens as text": ({"split_special_tokens": True}, {}, {}),
}


@pytest.mark.parametrize(("settings", "token_map", "added"), TOKENIZERS.values(), ids=TOKENIZERS)
def test_a_tokenizer_is_what_transformers_makes_of_its_files(directory, settings, token_map, added):
    tiny.write_json(directory / "tokenizer_config.json", SETTINGS | settings)
    for name, values in (("special_tokens_map.json", token_map), ("added_tokens.json", added)):
        if values:
            tiny.write_json(directory / name, values)
    write_template(directory, ALL_NAMES + PLAIN)
    assert_same(directory)
    text = "a <x> b<y>c<bos><eot> <user>d"
    codec, reference = TextCodec(directory), transformers.AutoTokenizer.from_pretrained(directory)
    assert codec.encode(text) == reference(text)["input_ids"]
    assert codec.decode(codec.encode(text)) == reference.decode(reference(text)["input_ids"], skip_special_tokens=True)


def test_padding_of_the_tokenizer_names_its_token(directory):
    tokenizer = tiny.make_tokenizer()
    tokenizer.add_special_tokens([AddedToken("<fill>", special=True)])
    tokenizer.enable_padding(pad_token="<fill>", pad_id=tokenizer.token_to_id("<fill>"))
    tokenizer.save(str(directory / "tokenizer.json"))
    write_template(directory, "{{ pad_token }}" + PLAIN)
    assert_same(directory)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": "<x>"}}),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}),
        ("tokenizer_config.json", {"additional_special_tokens": [7]}),
        ("added_tokens.json", {"<x>": "y"}),
    ],
)
def test_tokenizer_files_that_make_no_sense_are_named(directory, name, content):
    tiny.write_json(directory / name, content)
    with pytest.raises(InputError, match=r"tokenizer_config\.json, special_tokens_map\.json or added_tokens\.json: "):
        TextCodec(directory)
