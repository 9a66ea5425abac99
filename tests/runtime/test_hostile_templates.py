"""Chat templates that take more than they may are refused, whatever they do it with: a little more, to stay small."""

import tracemalloc

import pytest

from dualbinary import InputError
from runtime_ext.chat_template import ChatTemplate

MESSAGES = [{"role": "user", "content": "Hi"}]
MEMORY = 400 << 20  # bytes: all that a template may make in one text of a byte a letter, and what is around it
BIG = "{% set s = 'x' * 1000000 %}"
LIST = "{% set l = ['x' * 1000] * 900 %}"

BLOCKS = (
    "".join(f"{{% block b{n} %}}{{{{ self.b{n + 1}() }}}}{{{{ self.b{n + 1}() }}}}{{% endblock %}}" for n in range(17))
    + "{% block b17 %}{% endblock %}"
)
ENDLESS = {
    "a loop of loops": "{% for a in range(400) %}{% for b in range(400) %}{% endfor %}{% endfor %}",
    "lazy lists of lazy lists": "{{ range(99999) | map('string') | map('list') | map('map', 'upper')"
    " | map('list') | list }}",
    "a macro that calls itself twice": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}"
    "{% endmacro %}{{ f(17) }}",
    "a macro that calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a recursive loop": "{% for a in [1] recursive %}{{ loop([1, 2]) }}{% endfor %}",
}
GROWING = {
    "a product": "{{ 'x' * 2000000 }}",
    "a product of bytes": "{{ 'x'.encode() * 2000000 }}",
    "a power": "{{ 2 ** 2000000 }}",
    "a width": "{{ '%2000000d' % 1 }}",
    "a width that is a value": "{{ '%*d' % (2000000, 1) }}",
    "a width of format": "{{ '{:2000000}'.format(1) }}",
    "a width of the filter format": "{{ '%2000000s' | format('x') }}",
    "many places of a format": BIG + "{{ ('%(a)s' * 1000) % {'a': s[:9000]} }}",
    "replace": BIG + "{{ s[:2000].replace('x', s[:2000]) }}",
    "the filter replace": BIG + "{{ s[:2000] | replace('x', 'y' * 1000) }}",
    "join": BIG + "{{ ','.join([s] * 3) }}",
    "the filter join": LIST + "{{ l | join('y' * 1000) }}",
    "a width that is a text": "{{ '{:{}}'.format(1, '2000000') }}",
    "places of both kinds": "{{ ('{' ~ '%(a)s' * 1000) | format(a='x' * 9000) }}",
    "replace with names in another order": "{{ ('x' * 2000) | replace(new='y' * 1000, old='x') }}",
    "replace in a number": "{{ (10 ** 4000) | replace('0', 'y' * 1000) }}",
    "join of a lazy list": "{{ range(99999) | map('string') | join('y' * 100) }}",
    "namespaces in namespaces": "{% set n = namespace(l=1) %}{% for a in range(22) %}"
    "{% set n.l = namespace(a=n.l, b=n.l) %}{% endfor %}{{ n.l | string }}",
    "namespaces in lists": "{% set n = namespace(l=1) %}{% for a in range(22) %}"
    "{% set n.l = namespace(a=n.l, b=n.l) %}{% endfor %}{{ [n.l] }}",
    "indent": "{{ ('a\\n' * 2000) | indent(1000) }}",
    "tabs": "{{ ('\\t' * 2000).expandtabs(1000) }}",
    "tojson of an indent": "{{ [[1]] | tojson(indent=999999) }}",
    "tojson of separators": "{{ [1, 2] | tojson(separators=['x' * 999, ':']) }}",
    "a sum of lists": "{{ ([[1]] * 30000) | sum(start=[]) | length }}",
    "concatenation": "{% set n = namespace(s='x') %}{% for a in range(22) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "addition": "{% set n = namespace(s='x') %}{% for a in range(22) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "lists in lists": "{% set n = namespace(l=[1]) %}{% for a in range(22) %}{% set n.l = [n.l, n.l] %}"
    "{% endfor %}{{ n.l }}",
    "dictionaries in dictionaries": "{% set n = namespace(l={}) %}{% for a in range(22) %}"
    "{% set n.l = {'a': n.l, 'b': n.l} %}{% endfor %}{{ n.l | tojson }}",
    "lists in lists, compared": "{% set n = namespace(a=[1], b=[1]) %}{% for a in range(22) %}"
    "{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}{% endfor %}{{ n.a == n.b }}",
    "products of lists in lists": "{% set l = [1] * 100 %}{% set l = [l] * 100 %}{% set l = [l] * 200 %}{{ l }}",
    "many texts": "{% set n = namespace(l=[]) %}{% for a in range(400) %}{% set n.l = [n.l, 'x' * 900000 ~ a] %}"
    "{% endfor %}",
    "many slices": "{% set s = 'x' * 900000 %}{% set n = namespace(l=[]) %}{% for a in range(400) %}"
    "{% set n.l = [n.l, s[1:]] %}{% endfor %}",
    "output": "{% for a in range(9999) %}" + "x" * 1000 + "{% endfor %}",
    "a block of text that is set": "{% set t %}{% for a in range(9999) %}" + "x" * 1000 + "{% endfor %}{% endset %}",
    "a list of a lazy list": "{{ range(9999) | map('string') | map('center', 999) | list }}",
    "a namespace as a text": "{% set n = namespace() %}{% set n.a = [n] %}{{ n }}",
    "characters to strip": BIG + "{{ s.strip('y' * 5000) }}",
    "the source": "{# " + "x" * (1 << 18) + " #}",
    "nesting": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "nested lists": "{{ " + "[" * 3000 + "]" * 3000 + " }}",
}
FORBIDDEN = {
    "Python's objects": "{{ ''.__class__.__mro__ }}",
    "attributes by a filter": "{{ ('' | attr('__class__')).__mro__ }}",
    "attributes by a format": "{{ '{0.__class__.__mro__}'.format('') }}",
    "changing a list": "{{ messages.append(1) }}",
    "changing a message": "{% set _ = messages[0].update({'role': 'x'}) %}",
    "a file": "{% include '/etc/hostname' %}",
    "a module": "{% import 'os' as os %}",
    "a translation": "{{ 'a'.translate({97: 'bb'}) }}",
    "the patterns of urlize": "{{ 'http://a' | urlize }}",
    "words without end": "{{ lipsum(n=1000) }}",
    "bytes": "{{ 'a'.encode('punycode') }}",
    "a clock that is no pattern": r"{{ strftime_now('\ud800') }}",
}


def render(tmp_path, source):
    (tmp_path / "chat_template.jinja").write_text(source, encoding="utf-8")
    return ChatTemplate(tmp_path).render(MESSAGES, {})


@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS)
def test_a_template_that_does_not_end_is_ended(tmp_path, source):
    with pytest.raises(InputError, match="the chat template failed"):
        render(tmp_path, source)


SLOW = {
    "long rounds": "{% set l = ['x'] * 90000 %}{% for a in range(2000) %}{{ 'y' in l }}{% endfor %}",
    "blocks that call one another": BLOCKS,
}


@pytest.mark.parametrize("source", SLOW.values(), ids=SLOW)
def test_time_is_bounded_too(tmp_path, monkeypatch, source):
    monkeypatch.setattr("runtime_ext.template_budget.MAX_SECONDS", 0.05)
    with pytest.raises(InputError, match=r"the chat template failed: more than 0\.05 seconds"):
        render(tmp_path, source)


@pytest.mark.parametrize("source", GROWING.values(), ids=GROWING)
def test_what_would_be_too_large_is_not_made(tmp_path, source):
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="the chat template"):
            render(tmp_path, source)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("source", FORBIDDEN.values(), ids=FORBIDDEN)
def test_nothing_but_text_is_within_reach(tmp_path, source):
    with pytest.raises(InputError, match="the chat template failed"):
        render(tmp_path, source)


def test_what_published_templates_do_is_within_bounds(tmp_path):
    messages = [{"role": "user", "content": "word " * 40}] * 300
    source = (
        "{% set n = namespace(l=[], s='') %}{% for m in messages %}{% set n.l = n.l + [m] %}"
        "{% set n.s = n.s ~ m.role %}"
        "{% if messages[loop.index0 - 1].role == m.role and n.l | length > 0 %}{{ m['content'] | trim }}{% endif %}"
        "{{ '%s: %s' % (m.role, m.content.split(' ')[-1]) }}{{ m.content.replace('word', 'w')[:5] | tojson }}"
        "{% endfor %}{{ messages | map(attribute='role') | unique | join(', ') }}"
    )
    (tmp_path / "chat_template.jinja").write_text(source)
    assert ChatTemplate(tmp_path).render(messages, {}).endswith('user: "w w w"user')
