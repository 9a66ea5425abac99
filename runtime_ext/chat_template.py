"""Chat templates: where a model keeps its own, and its text for a conversation, letter for letter transformers'.

Templates are written against transformers: beyond Jinja they use `raise_exception`, `strftime_now`, a `tojson` that
escapes neither HTML nor letters, `{% generation %}`, `{% break %}` and `{% continue %}`, and they ask whether `tools`
and `documents` are none. They come with the model and nobody has read them, so they run in Jinja's sandbox, which hands
out no Python objects, and for a bounded number of steps.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import Environment, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from dualbinary import InputError
from dualbinary.files.model_files import CHAT_TEMPLATE, CHAT_TEMPLATE_JSON, CHAT_TEMPLATES, TOKENIZER_CONFIG
from runtime_ext.config import read_json

__all__ = ["ChatTemplate"]

# Rounds of loops and calls of macros in one conversation. The longest published ones take some hundred for a message.
MAX_STEPS = 100_000
# What operators and blocks may make: characters of a text, items of a list, bits of a number; and numbers in calls,
# such as the width of a text. Longer prompts than this fit no context.
MAX_SIZE = 1_000_000


class ChatTemplate:
    """The chat template of a model directory."""

    def __init__(self, directory: Path) -> None:
        """Find and compile it. Raises InputError where there is none, or one that does not compile."""
        self._directory = directory
        self._sandbox = _Sandbox()
        source = _find(directory)
        try:
            self._template = self._sandbox.from_string(_counted(self._sandbox.parse(source)))
        except Exception as error:  # a template is foreign code and fails in any way it likes
            raise self._failure(error) from error

    def render(self, messages: Sequence[Mapping[str, str]], special_tokens: Mapping[str, str]) -> str:
        """The text of a conversation up to the place where the answer begins.

        Raises InputError where the template does not accept the messages.
        """
        self._sandbox.steps = 0
        variables = {**special_tokens, "messages": messages, "tools": None, "documents": None}
        try:
            return self._template.render(variables, add_generation_prompt=True)
        except Exception as error:  # as above
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> InputError:
        return InputError(f"{self._directory}: the chat template failed: {error or type(error).__name__}")


class _Generation(Extension):
    """The block {% generation %}, which marks an answer for training. Its content is text as anywhere else."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        """Parse the block as a call with a body, so that names set in it stay in it."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_content"), [], [], body).set_lineno(line)

    def _content(self, caller: Macro) -> str:
        return caller()


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with the settings and the names that templates are written for."""

    intercepted_binops = frozenset({"*", "**", "+"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"])
        self.steps = 0
        self.filters["tojson"] = _tojson
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}

    def count_step(self) -> None:
        """Count a round of a loop. Raises SecurityError where there were too many."""
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise SecurityError(f"more than {MAX_STEPS} rounds of loops")

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """A product, a power or a sum. Raises SecurityError where it would be too long."""
        if _size_of_result(operator, left, right) > MAX_SIZE:
            raise SecurityError(f"{operator} would make more than {MAX_SIZE} characters, items or bits")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, called: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function or a method. Raises SecurityError for a number that could ask for too much."""
        if any(isinstance(value, int) and abs(value) > MAX_SIZE for value in (*args, *kwargs.values())):
            raise SecurityError(f"a call with a number above {MAX_SIZE}")
        return super().call(context, called, *args, **kwargs)

    def concat(self, parts: Iterable[str]) -> str:
        """The text of a template, a macro or a block. Raises SecurityError where it is too long."""
        kept, size = [], 0
        for part in parts:
            size += len(part)
            if size > MAX_SIZE:
                raise SecurityError(f"a text of more than {MAX_SIZE} characters")
            kept.append(part)
        return "".join(kept)

    def joined(self, *parts: Any) -> str:
        """What `~` makes. Raises SecurityError where it is too long."""
        return self.concat(map(str, parts))


def _size_of_result(operator: str, left: Any, right: Any) -> float:
    bits = [side.bit_length() if isinstance(side, int) else 0 for side in (left, right)]
    if operator == "**":
        return bits[0] * abs(right)
    if operator == "+":
        sizes = [len(side) if isinstance(side, str | list | tuple) else 0 for side in (left, right)]
        return sum(sizes) or max(bits)
    for sequence, count in ((left, right), (right, left)):
        if isinstance(sequence, str | list | tuple) and isinstance(count, int):
            return len(sequence) * count
    return sum(bits)


def _counted(tree: nodes.Template) -> nodes.Template:
    """`tree` with every round of a loop and every call of a macro counted, and texts joined within bounds."""
    for node in list(tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock))):
        count = nodes.Call(nodes.EnvironmentAttribute("count_step"), [], [], None, None)
        node.body.insert(0, nodes.ExprStmt(count).set_lineno(node.lineno))
    return _Joins().visit(tree)


class _Joins(NodeTransformer):
    """Puts a call of `joined` in the place of every `~`."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        parts = [self.visit(part) for part in node.nodes]
        return nodes.Call(nodes.EnvironmentAttribute("joined"), parts, [], None, None).set_lineno(node.lineno)


def _find(directory: Path) -> str:
    """The text of the template that answers plain messages, from the first of its places.

    Several may have names, in a folder of their own or in tokenizer_config.json: then it is the one called "default".
    """
    named = {path.stem: path for path in sorted((directory / CHAT_TEMPLATES).glob("*.jinja"))}
    if (directory / CHAT_TEMPLATE).is_file():
        named.setdefault("default", directory / CHAT_TEMPLATE)
    template: Any = {name: _read(path) for name, path in named.items()}
    for settings in (TOKENIZER_CONFIG, CHAT_TEMPLATE_JSON):
        template = template or read_json(directory / settings).get("chat_template")
    if isinstance(template, list):
        template = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
    if isinstance(template, dict):
        if template and "default" not in template:
            raise InputError(
                f"{directory}: expected a chat template called default, got {', '.join(map(str, template))}; "
                f"copy the one to use to {CHAT_TEMPLATE}, or leave chat out"
            )
        template = template.get("default")
    if not isinstance(template, str):
        raise InputError(f"{directory}: the model has no chat template; leave chat out")
    return template


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except ValueError as error:
        raise InputError(f"{path}: not UTF-8 text ({error})") from None


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)
