"""A chat template and the messages that it renders: runtime_ext.chat_template."""

import contextlib
import json
from collections.abc import Iterator

from dualbinary import InputError
from runtime_ext.chat_template import ChatTemplate
from tools.fuzz.readers.sections import files_of, in_directory, joined

NAME = "chat"

_MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
_TEMPLATES = (
    "{% for m in messages %}<{{ m.role }}>{{ m['content'] | trim }}{{ eos_token }}{% endfor %}<assistant>",
    "{%- set ns = namespace(n=0, l=[]) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% set ns.l = ns.l + [m] %}"
    "{% if m.role not in ['system', 'user'] %}{{ raise_exception('role') }}{% endif %}{{ ns.l | length ~ m.role }}"
    "{% endfor %}{{ messages | tojson(indent=2) }}{{ strftime_now('%Y') }}",
    "{% macro say(m) %}{{ '%s: %s' | format(m.role, m.content) }}{% endmacro %}{% for m in messages[1:] %}{{ say(m) }}"
    "{% if loop.index0 % 2 == 1 %}{% break %}{% endif %}{% endfor %}{{ messages | map(attribute='role') | join(',') }}",
    "{{ 'a' * 9 + 'b' }}{{ range(3) | list }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}"
    "{% generation %}{{ messages[-1].content.split('a')[-1].replace('x', 'y') }}{% endgeneration %}{{ 2 ** 9 // 7 }}",
)


def seeds() -> Iterator[bytes]:
    """Templates with all that published ones use."""
    for template in _TEMPLATES:
        yield joined({"chat_template.jinja": template.encode(), "messages.json": json.dumps(_MESSAGES).encode()})


def try_input(data: bytes) -> None:
    """Compile the template and render the messages."""
    files = files_of(data)
    try:
        messages = json.loads(files.pop("messages.json", b"[]"))
    except (ValueError, RecursionError):
        return  # no part of what is tried here: requests.py
    with in_directory(files) as directory, contextlib.suppress(InputError):
        ChatTemplate(directory).render(messages, {"eos_token": "</s>"})
