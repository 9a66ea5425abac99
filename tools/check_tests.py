"""Rules of the tests that a linter does not know; `python tools/check_files.py` applies them.

Tests import helpers from tests.support alone, and they use public names: neither an attribute, an import nor a patch of
theirs reaches into a name with an underscore.
"""

import ast
from collections.abc import Iterator

PACKAGES = (
    "benchmarks",
    "calib",
    "dualbinary",
    "examples",
    "exporter",
    "importer",
    "runtime_ext",
    "studies",
    "tests",
    "tools",
)
# Benchmarks, studies and tools are what these test; for all others tests.support is the way to them.
TESTED_HERE = ("tests/benchmarks/", "tests/studies/", "tests/tools/", "tests/support/")
PATCHES = ("setattr", "delattr", "getattr", "object")
NAMED_TUPLE = ("_asdict", "_fields", "_make", "_replace")


def findings(name: str, text: str) -> Iterator[str]:
    """Yield a line for each place of the file `name`, below tests/, that breaks a rule."""
    tree = ast.parse(text)
    imported = {local: module for node in ast.walk(tree) for local, module in _imports(node)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.stmt | ast.expr):
            continue
        modules = [module for _, module in _imports(node)]
        yield from (f"{name}:{node.lineno}: {why}" for module in modules if (why := _wrong_import(name, module)))
        for private in _privates(node, imported):
            yield f"{name}:{node.lineno}: {private} is private; test through a public name, or make it one"


def _imports(node: ast.AST) -> list[tuple[str, str]]:
    """Pairs of a local name and the full name that it is bound to."""
    if isinstance(node, ast.Import):
        return [(each.asname or each.name.partition(".")[0], each.name) for each in node.names]
    if isinstance(node, ast.ImportFrom):
        return [(each.asname or each.name, f"{node.module}.{each.name}") for each in node.names]
    return []


def _wrong_import(name: str, module: str) -> str | None:
    package, _, rest = module.partition(".")
    if package == "tests" and rest.partition(".")[0] != "support":
        return f"imports {module}; tests import no other test, so move what they share to tests/support"
    if package in ("benchmarks", "studies", "tools") and not name.startswith(TESTED_HERE):
        return f"imports {module}; take it from tests.support"
    return None


def _privates(node: ast.AST, imported: dict[str, str]) -> Iterator[str]:
    """Private names of the project that this node alone mentions."""
    for _, module in _imports(node):
        if _is_ours(module) and any(map(_is_private, module.split("."))):
            yield module
    if isinstance(node, ast.Attribute) and _is_private(node.attr) and _may_be_ours(node.value, imported):
        yield node.attr
    if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in PATCHES:
        for place, argument in enumerate(node.args[:2]):
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                ours = _may_be_ours(node.args[0], imported) if place else _is_ours(argument.value)
                if ours and any(map(_is_private, argument.value.split("."))):
                    yield argument.value


def _is_private(word: str) -> bool:
    return word.startswith("_") and not word.endswith("_") and word not in NAMED_TUPLE


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in PACKAGES


def _may_be_ours(owner: ast.expr, imported: dict[str, str]) -> bool:
    """Neither the object itself nor something that is imported from another project."""
    while isinstance(owner, ast.Attribute | ast.Subscript):
        owner = owner.value
    if isinstance(owner, ast.Name):
        return owner.id not in ("self", "cls") and _is_ours(imported.get(owner.id, PACKAGES[0]))
    return not (isinstance(owner, ast.Call) and getattr(owner.func, "id", "") == "super")
