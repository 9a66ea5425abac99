"""The contract of the operators as frozen data, read from `op.toml`.

`OP`, the product, `HADAMARD`, and the blocks `MLP` and `ATTENTION` are the only places from which names, attributes,
limits and layouts are taken; no other file spells them out.
"""

import hashlib
import json
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, cast

__all__ = [
    "ATTENTION",
    "HADAMARD",
    "MLP",
    "OP",
    "OPERATORS",
    "Attribute",
    "Layout",
    "Operator",
    "Product",
    "Value",
    "digest",
    "padded_k",
]


@dataclass(frozen=True)
class Value:
    """An input or output: its element types and its shape as expressions of the symbols."""

    name: str
    types: tuple[str, ...]
    shape: tuple[str, ...]
    text: str
    optional: bool = False


@dataclass(frozen=True)
class Attribute:
    """An attribute, "int" or "float". `default` is None where it is required; `values` is empty where any value goes.

    `since` is the version of the operator that brought it; a node without it means its default.
    """

    name: str
    type: str
    text: str
    default: int | float | None = None
    minimum: int | None = None
    values: tuple[int, ...] = ()
    since: int = 1


@dataclass(frozen=True)
class Layout:
    """A stored form of planes and scales. A number never changes its meaning.

    `blocks` says whether both lie in blocks for the kernels of the instruction set that `name` is. `since` is the
    version of the operator that brought it.
    """

    number: int
    name: str
    blocks: bool
    alignment: int
    text: str
    since: int = 1


@dataclass(frozen=True)
class Operator:
    """What every operator has; domain and version are those of all. See `op.toml` for what the fields mean.

    `products` are the prefixes of the products inside a block, whose attributes follow its own. `unusual` says what
    happens to numbers such as NaN, by what is given.
    """

    domain: str
    domains: int
    version: int
    version_attribute: str
    name: str
    summary: str
    formula: str
    limits: dict[str, int]
    symbols: dict[str, str]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    attributes: tuple[Attribute, ...]
    products: tuple[str, ...]
    unusual: dict[str, str]

    @property
    def domain_names(self) -> tuple[str, ...]:
        """All domains that the operator is in, the first of which is `domain`. It means the same in each.

        A model's function is known by domain and name (ONNX Runtime before 1.27 does not tell overloads apart), so that
        what one function cannot serve has nodes of several domains.
        """
        return (self.domain, *(f"{self.domain}.{number}" for number in range(2, self.domains + 1)))

    def attribute(self, name: str) -> Attribute:
        """Return the attribute called `name`; KeyError if the contract has none."""
        for attribute in self.attributes:
            if attribute.name == name:
                return attribute
        raise KeyError(name)


@dataclass(frozen=True)
class Product(Operator):
    """The product, with the forms that its weight is stored in."""

    cuda: dict[str, int]
    scale_codes: dict[str, int]
    blocks: dict[str, int]
    layouts: tuple[Layout, ...]

    def layout(self, number: int) -> Layout:
        """Return the layout of that number; KeyError if the contract has none."""
        for layout in self.layouts:
            if layout.number == number:
                return layout
        raise KeyError(number)

    def layout_named(self, name: str) -> Layout:
        """Return the layout of that name; KeyError if the contract has none."""
        for layout in self.layouts:
            if layout.name == name:
                return layout
        raise KeyError(name)


def padded_k(k: int, group_size: int) -> int:
    """Kp: `k` rounded up to a multiple of `group_size`."""
    return -(-k // group_size) * group_size


def digest() -> str:
    """Sixteen hex digits that change when the contract changes in any way that a machine could notice.

    Prose (`text`, `summary`, `formula`, `symbols`, `unusual`) is left out. The C++ library carries the value it was
    built with and `runtime_ext` compares the two.
    """
    prose = {"text", "summary", "formula", "symbols", "unusual"}

    def strip(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: strip(value) for key, value in node.items() if key not in prose}
        return [strip(item) for item in node] if isinstance(node, list) else node

    canonical = json.dumps(strip(_read()), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _read() -> dict[str, Any]:
    return tomllib.loads(files("dualbinary.contract").joinpath("op.toml").read_text(encoding="utf-8"))


def _load() -> tuple[Operator, ...]:
    raw = _read()
    entries = raw.pop("operators")
    return tuple(_operator(raw | entry | _product_attributes(entry, entries[0])) for entry in entries)


def _product_attributes(entry: dict[str, Any], product: dict[str, Any]) -> dict[str, Any]:
    """The products of a block, and its attributes with theirs: those of `product`, without sizes, behind a prefix."""
    prefixes = tuple(entry.get("products", ()))
    given = [each for each in product["attributes"] if each["name"] not in ("K", "N")]
    numbers = [layout["number"] for layout in product["layouts"]]
    added = [
        each
        | {"name": f"{prefix}_{each['name']}", "text": f"Of {prefix}, as {each['name']} of {product['name']}."}
        | ({"values": numbers} if each["name"] == "layout" else {})
        for prefix in prefixes
        for each in given
    ]
    return {"attributes": [*entry["attributes"], *added], "products": prefixes}


def _operator(entry: dict[str, Any]) -> Operator:
    def values(name: str) -> tuple[Value, ...]:
        return tuple(Value(**{**v, "types": tuple(v["types"]), "shape": tuple(v["shape"])}) for v in entry[name])

    layouts = tuple(Layout(**layout) for layout in entry.get("layouts", ()))
    numbers = {"layout": [layout.number for layout in layouts]}
    attributes = tuple(
        Attribute(**{**a, "values": tuple(a.get("values", numbers.get(a["name"], ())))}) for a in entry["attributes"]
    )
    entry = entry | {"inputs": values("inputs"), "outputs": values("outputs"), "attributes": attributes}
    return Product(**{**entry, "layouts": layouts}) if layouts else Operator(**entry)


OPERATORS = _load()
"""All operators of the contract, in its order."""


def _named(name: str) -> Operator:
    return next(operator for operator in OPERATORS if operator.name == name)


OP = cast(Product, _named("DualBinaryMatMul"))
HADAMARD = _named("SignedHadamard")
MLP = _named("DualBinaryMlp")
ATTENTION = _named("DualBinaryAttention")
