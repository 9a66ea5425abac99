"""What onnxruntime-genai makes otherwise than transformers of the tokenizer and the chat template beside a model.

Its template engine and its tokenizer are its own. What they lack was found by rendering each construct with both
(onnxruntime-genai 0.18, transformers 5.23), and is looked for in the files; nothing is run.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import onnx_ir as ir
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from tokenizers import Tokenizer

from dualbinary.files.json_objects import read_json_object
from dualbinary.files.model_files import CHAT_TEMPLATE, TOKENIZER, TOKENIZER_CONFIG

__all__ = ["cache_notes", "genai_notes", "template_differences"]

_SHOWN = 3  # differences of a template that a note names

# Of the filters and tests of Jinja, those that render as they do in transformers.
_FILTERS = frozenset(
    {
        "count",
        "default",
        "dictsort",
        "e",
        "equalto",
        "escape",
        "int",
        "items",
        "join",
        "last",
        "length",
        "list",
        "lower",
    }
    | {"map", "reject", "rejectattr", "safe", "select", "selectattr", "sort", "string", "tojson", "trim", "unique"}
)
_TESTS = frozenset(
    {"boolean", "defined", "false", "float", "integer", "iterable", "mapping", "none", "number", "sequence", "string"}
    | {"true", "undefined"}
)
_METHODS = frozenset({"append", "endswith", "get", "items", "lstrip", "pop", "rstrip", "split", "startswith", "strip"})
_PYTHON_METHODS = frozenset(name for kind in (str, dict, list) for name in dir(kind)) - _METHODS
_BLOCKS: dict[type[nodes.Node], str] = {
    nodes.CallBlock: "call",
    nodes.FilterBlock: "filter",
    nodes.With: "with",
    nodes.Block: "block",
    nodes.ScopedEvalContextModifier: "autoescape",
    nodes.Import: "import",
    nodes.FromImport: "import",
    nodes.Include: "include",
    nodes.Extends: "extends",
}
# transformers defines these, as none where the caller gives none; there they are not defined.
_NONE_UNLESS_GIVEN = frozenset({"tools", "documents"})
_UNKNOWN_NAMES = frozenset({"unk_token", "pad_token", "dict"})
# Normalizers that only put the blank of SentencePiece in the place of blanks, which is known there.
_KNOWN_NORMALIZERS = frozenset({"Prepend", "Replace"})


def genai_notes(directory: Path) -> list[str]:
    """Sentences about the tokenizer's files in `directory`; none where onnxruntime-genai does as transformers does."""
    path = directory / TOKENIZER
    if not path.is_file():
        return []
    settings = read_json_object(directory / TOKENIZER_CONFIG) if (directory / TOKENIZER_CONFIG).is_file() else {}
    notes = []
    try:
        tokenizer = Tokenizer.from_file(str(path))
        added = tokenizer.encode("a").tokens, tokenizer.encode("a", add_special_tokens=False).tokens
    except Exception:  # the library raises bare exceptions; who reads the file says so
        return []
    if added[0] != added[1]:
        special = " ".join(token for token in added[0] if token not in added[1])
        notes.append(
            f"onnxruntime-genai's tokenizer leaves out {special}, without which the model may write text without "
            'sense: call tokenizer.update_options(add_special_tokens="true")'
        )
    unknown = [
        name for name in _normalizers(read_json_object(path).get("normalizer")) if name not in _KNOWN_NORMALIZERS
    ]
    if unknown:
        notes.append(f"onnxruntime-genai's tokenizer leaves out the normalizer {', '.join(unknown)} of {TOKENIZER}")
    if found := template_differences(_template(directory, settings)):
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        notes.append(
            f"onnxruntime-genai renders the chat template otherwise than transformers, or fails: "
            f"{', '.join(found[:_SHOWN])}{more}; render it with transformers and encode the text"
        )
    return notes


def cache_notes(model: ir.Model) -> list[str]:
    """A sentence where the caches of keys and of values have heads of different sizes."""
    sizes = {
        v.shape[3] for v in model.graph.inputs if str(v.name).startswith("past_key_values.") and v.shape is not None
    }
    if len(sizes) < 2:
        return []
    listed = " and ".join(map(str, sorted(sizes, key=str)))
    return [f"onnxruntime-genai takes one head size for keys and values, here {listed}, and does not run this model"]


def template_differences(template: str) -> list[str]:
    """What of a chat template onnxruntime-genai renders otherwise than transformers; none where it is no template.

    A text in a text is told from a key in an object by the words, so what is found there is likely, not certain.
    """
    try:
        return _template_differences(template)
    except (jinja2.TemplateError, RecursionError, ValueError):  # the last for a number of thousands of digits
        return []  # transformers refuses it as well


def _template_differences(template: str) -> list[str]:
    environment = _environment(transformers=True)
    tree = environment.parse(template)
    plain = _environment(transformers=False).parse(template)
    tags = {(kind, text) for _, kind, text in environment.lex(template) if kind in ("raw_begin", "block_begin")}
    found = list(dict.fromkeys(_differences(tree)))
    if any(kind == "raw_begin" for kind, _ in tags):
        found.append("a raw block")
    if any("+" in text for _, text in tags):
        found.append("a tag with '+'")
    if "\\u" in template:
        found.append("\\u in a text")
    if tree != plain:
        found.append("line ends and blanks around tags without '-'")
    return found


class _Generation(Extension):
    """The tag of transformers around what a model answers."""

    tags = {"generation"}  # noqa: RUF012  # as the base class has it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Keep the body."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment(*, transformers: bool) -> jinja2.Environment:
    """Jinja with the whitespace rules of transformers, or of onnxruntime-genai; for parsing alone."""
    extensions = ["jinja2.ext.loopcontrols", _Generation]
    return jinja2.Environment(trim_blocks=transformers, lstrip_blocks=transformers, extensions=extensions)


def _differences(tree: nodes.Template) -> Iterator[str]:
    assigned = {node.name for node in tree.find_all(nodes.Name) if node.ctx in ("store", "param")}
    for node in tree.find_all(nodes.Node):
        if type(node) in _BLOCKS:
            yield f"a {_BLOCKS[type(node)]} block"
        if isinstance(node, nodes.Assign) and isinstance(node.target, nodes.Tuple):
            yield "several names in one set"
        if isinstance(node, nodes.Filter):
            yield from _filter(node)
        if isinstance(node, nodes.Test):
            yield from _test(node, assigned)
        if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr):
            yield from _method(node, node.node.attr)
        if isinstance(node, nodes.Compare):
            yield from _comparison(node)
        if isinstance(node, nodes.Mod) and isinstance(node.left, nodes.Const) and isinstance(node.left.value, str):
            yield "a text formatted with %"
        if isinstance(node, nodes.Name) and node.ctx == "load" and node.name in _UNKNOWN_NAMES - assigned:
            yield f"the name {node.name}"


def _filter(node: nodes.Filter) -> Iterator[str]:
    names = {node.name}
    if node.name in ("map", "select", "reject"):
        names |= {value.value for value in node.args[:1] if isinstance(value, nodes.Const)}
    if "indent" in names and len(node.args) and not node.kwargs:
        names.remove("indent")  # known with a width, as a plain argument
    yield from (f"the filter {name}" for name in sorted(map(str, names - _FILTERS)))


def _test(node: nodes.Test, assigned: set[str]) -> Iterator[str]:
    if node.name not in _TESTS:
        yield f"the test {node.name}"
    if node.name == "none" and isinstance(node.node, nodes.Name) and node.node.name in _NONE_UNLESS_GIVEN - assigned:
        yield f"{node.node.name} is none"


def _method(call: nodes.Call, name: str) -> Iterator[str]:
    if name in _PYTHON_METHODS or (name == "split" and len(call.args) != 1):
        yield f".{name}()"
    if name in ("startswith", "endswith") and any(isinstance(value, nodes.Tuple) for value in call.args):
        yield f".{name}() of several texts"


def _comparison(node: nodes.Compare) -> Iterator[str]:
    if len(node.ops) > 1:
        yield "a comparison of three values"
    for operand in node.ops:
        if operand.op in ("in", "notin") and _is_text(node.expr, operand.expr):
            yield "a text in a text"


def _is_text(left: nodes.Node, right: nodes.Node) -> bool:
    """True where `left in right` looks for a text: right is one, or is called so, or left cannot be a key."""
    if isinstance(right, (nodes.List, nodes.Tuple, nodes.Dict)):
        return False
    if isinstance(right, nodes.Const) and isinstance(right.value, str):
        return True
    if isinstance(right, nodes.Filter) and right.name in ("trim", "string", "lower", "upper"):
        return True
    named: Any = getattr(right, "name", None) or getattr(right, "attr", None)
    if isinstance(right, nodes.Getitem) and isinstance(right.arg, nodes.Const):
        named = right.arg.value
    if named in ("content", "text", "reasoning_content"):
        return not (isinstance(left, nodes.Const) and left.value in ("type", "text", "image"))
    return isinstance(left, nodes.Const) and isinstance(left.value, str) and not left.value.isidentifier()


def _normalizers(value: Any) -> list[str]:
    """Names of the normalizers in a value of tokenizer.json."""
    if not isinstance(value, dict):
        return []
    if value.get("type") == "Sequence":
        return [name for item in value.get("normalizers", []) for name in _normalizers(item)]
    return [str(value.get("type"))]


def _template(directory: Path, settings: dict[str, Any]) -> str:
    """The chat template that onnxruntime-genai finds, "" for none."""
    if (directory / CHAT_TEMPLATE).is_file():
        return (directory / CHAT_TEMPLATE).read_text(encoding="utf-8")
    value = settings.get("chat_template")
    return value if isinstance(value, str) else ""
