"""Jinja's sandbox for chat templates, with what templates are written for, and bounds to all that they do.

Jinja hands out no Python objects. What it does not bound is work: so every round, call, filter and operator asks a
Budget first, and those whose result can be much longer than what they are given are refused by what it would be. For
that the template's tree is changed: `~`, slices and lists with values in them become calls.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import wraps
from typing import Any, NoReturn

from jinja2 import Environment, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from runtime_ext.template_budget import MAX_SIZE, MAX_STEPS, Budget

__all__ = ["TemplateSandbox"]

# Nothing that a prompt is made by: they search their text by patterns, or multiply it.
_NO_FILTERS = ("urlize", "wordwrap", "xmlattr", "pprint", "filesizeformat", "striptags")
_NO_METHODS = ("translate", "format_map", "maketrans", "encode", "decode", "to_bytes")
_STRIPS = ("strip", "lstrip", "rstrip", "trim")
_MAX_SHORT = 1000  # characters to strip, of which each is compared with each
_MAX_INDENT = 16


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """The environment of one template. Set `budget` before each rendering."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, "jinja2.ext.loopcontrols"],
            finalize=lambda value: self.shown(value),
        )
        self.budget = Budget()
        self.filters["tojson"] = self._tojson
        for name in _NO_FILTERS:
            self.filters.pop(name, None)
        self.filters = {name: self._bounded(name, each) for name, each in self.filters.items()}
        self.globals.pop("lipsum", None)
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}

    def counted_template(self, source: str) -> Any:
        """Compile `source` with every round, list and text of it counted."""
        tree = self.parse(source)
        for node in list(tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock))):
            count = nodes.Call(nodes.EnvironmentAttribute("count_step"), [], [], None, None)
            node.body.insert(0, nodes.ExprStmt(count).set_lineno(node.lineno))
        return self.from_string(_Calls().visit(tree))

    def count_step(self) -> None:
        """Count a round of a loop, or a call of a macro."""
        self.budget.step()

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """A product, a power, a sum, or what % makes of a text. Raises SecurityError where it would be too long."""
        self.budget.tick()
        self.budget.refuse(self._size_of_result(operator, left, right), operator)
        return self.budget.made(super().call_binop(context, operator, left, right))

    def call(self, context: Context, called: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function or a method. Raises SecurityError for what could ask for too much."""
        if getattr(called, "__self__", None) is self:  # one of those below, which ask for themselves
            return called(*args)
        self.budget.tick()
        if isinstance(called, Macro) or called is Namespace:  # which keep what they are given, until it is used
            return super().call(context, called, *args, **kwargs)
        name = getattr(called, "__name__", "")
        owner = getattr(getattr(called, "__wrapped__", called), "__self__", None)  # Jinja wraps the method format
        given = (owner, *args, *kwargs.values()) if isinstance(owner, str | bytes | list | tuple | dict) else None
        self._check(name, (*args, *kwargs.values()) if given is None else given)
        return self.budget.made(super().call(context, called, *args, **kwargs))

    def concat(self, parts: Iterable[str]) -> str:
        """The text of a template, a macro or a block. Raises SecurityError where it is too long."""
        return self.budget.concat(parts)

    def joined(self, *parts: Any) -> str:
        """What `~` makes. Raises SecurityError where it is too long."""
        self.budget.tick()
        return self.budget.concat(str(self.shown(part)) for part in parts)

    def listed(self, value: Any) -> Any:
        """A list, a tuple or a dictionary that the template writes."""
        return self.budget.made(value)

    def sliced(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        """A slice."""
        self.budget.tick()
        return self.budget.made(value[start:stop:step])

    def shown(self, value: Any) -> Any:
        """A value that is about to become text. Raises SecurityError where that is too long."""
        self.budget.size(value)
        return value

    def _bounded(self, name: str, applied: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that asks the budget, before and after. Jinja passes it a context where `applied` says so."""

        @wraps(applied)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            self.budget.tick()
            first = 1 if hasattr(applied, "jinja_pass_arg") else 0
            self._check(name, (*args[first:], *kwargs.values()))
            if name == "sum" and not isinstance(
                kwargs.get("start", args[first + 2] if len(args) > first + 2 else 0), int | float
            ):
                raise SecurityError("sum: of numbers alone")
            return self.budget.made(applied(*args, **kwargs))

        return bounded

    def _check(self, name: str, values: tuple[Any, ...]) -> None:
        """Refuse a call of a filter or a method, by its name and all that it is given, its text first."""
        if name in _NO_METHODS:
            raise SecurityError(f"{name} is not offered")
        for value in values:
            if isinstance(value, int) and abs(value) > MAX_SIZE:
                raise SecurityError(f"a call with a number above {MAX_SIZE}")
        sizes = [self.budget.size(value) for value in values]
        if name in _STRIPS and any(size > _MAX_SHORT for size in sizes[1:]):
            raise SecurityError(f"{name}: more than {_MAX_SHORT} characters to strip")
        if name in _GROWTH and values:
            text = values[0] if isinstance(values[0], str) else str(values[0])
            numbers = [abs(value) for value in values[1:] if isinstance(value, int)]
            most = max([*sizes[1:], *numbers], default=0)
            self.budget.refuse(len(text) + sum(sizes) + _GROWTH[name](text, values, most), name)

    def _size_of_result(self, operator: str, left: Any, right: Any) -> float:
        if operator == "%":
            return _formatted(left, self.budget.size(right) + _largest(right)) if isinstance(left, str) else 0
        sizes = [self.budget.size(side) if not isinstance(side, float) else 0 for side in (left, right)]
        if operator == "**":
            return sizes[0] * abs(right) if isinstance(right, int | float) else 0
        for sequence, count, size in ((left, right, sizes[0]), (right, left, sizes[1])):
            if operator == "*" and isinstance(sequence, str | bytes | list | tuple) and isinstance(count, int):
                return size * count
        return sum(sizes)

    def _tojson(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        if (isinstance(indent, int) and indent > _MAX_INDENT) or sum(map(len, separators or ())) > _MAX_INDENT:
            raise SecurityError(f"tojson: expected an indent and separators of at most {_MAX_INDENT} characters")
        encoder = json.JSONEncoder(
            ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys, allow_nan=True
        )
        return self.budget.concat(encoder.iterencode(value))


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


class _Calls(NodeTransformer):
    """Puts calls in the place of `~`, of slices, and of lists whose items are no constants."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        return _called("joined", [self.visit(part) for part in node.nodes], node)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        cut = node.arg
        if not isinstance(cut, nodes.Slice):
            return node
        ends = [nodes.Const(None) if end is None else end for end in (cut.start, cut.stop, cut.step)]
        return _called("sliced", [node.node, *ends], node)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return self._literal(node, node.items)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        return self._literal(node, node.items) if node.ctx == "load" else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return self._literal(node, [each for pair in node.items for each in (pair.key, pair.value)])

    def _literal(self, node: nodes.Expr, items: list[nodes.Expr]) -> nodes.Node:
        self.generic_visit(node)
        return node if all(isinstance(item, nodes.Const) for item in items) else _called("listed", [node], node)


def _called(name: str, args: list[nodes.Expr], node: nodes.Node) -> nodes.Node:
    return nodes.Call(nodes.EnvironmentAttribute(name), args, [], None, None).set_lineno(node.lineno)


def _formatted(text: str, values: int) -> int:
    """The most characters of a format with values of so many in all: each place may have all, and a width."""
    if re.search(r"\{[^{}]*\{", text):
        raise SecurityError("format: a field inside a field")
    width = max((int(digits) if len(digits) < 8 else 10**8 for digits in re.findall(r"[0-9]+", text)), default=0)
    return len(text) + (text.count("%") + text.count("{")) * (values + width)


def _replaced(text: str, values: tuple[Any, ...], most: int) -> int:
    """By the most frequent of the texts, in whatever order they are given."""
    places = [text.count(each) if each else len(text) + 1 for each in values[1:] if isinstance(each, str)]
    return max(places, default=0) * most


def _joined(text: str, values: tuple[Any, ...], most: int) -> int:
    """What stands between is the text of the method, and a value of the filter; lazy lists have as many as may be."""
    counts = [len(each) for each in values if isinstance(each, list | tuple | dict | range | str)]
    lazy = [MAX_STEPS for each in values if isinstance(each, Iterator)]
    between = max((len(each) for each in values[: 2 if lazy else None] if isinstance(each, str)), default=0)
    return max([*counts, *lazy], default=0) * between if len(values) > 1 else 0


# How many characters more the outcome may have than what is given: text, all values, the largest of them.
_GROWTH: dict[str, Callable[[str, tuple[Any, ...], int], int]] = {
    "replace": _replaced,
    "join": _joined,
    "format": lambda text, values, most: _formatted(text, most * len(values)),
    "indent": lambda text, values, most: (text.count("\n") + 1) * max(most, 4),
    "expandtabs": lambda text, values, most: text.count("\t") * max(most, 8),
}


def _largest(value: Any) -> int:
    """The largest number in the values of a format, which may be a width."""
    values = value if isinstance(value, tuple | list) else [value]
    return max((abs(each) for each in values if isinstance(each, int)), default=0)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)
