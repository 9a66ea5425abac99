"""Derive files from the contract: the C++ header at build time; docs/op_reference.md and golden vectors, committed.

    python -m dualbinary.contract.codegen --header PATH
    python -m dualbinary.contract.codegen --docs PATH --golden DIR [--check]

CMake writes the header, so it cannot be stale in a build. With --check nothing is written and stale files exit with 1.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

from dualbinary.contract import golden
from dualbinary.contract.golden import blocks, hadamard
from dualbinary.contract.schema import OP, OPERATORS, Operator, digest

__all__ = ["header", "main", "reference_page"]


def header() -> str:
    """The contract as C++ constants. Only constexpr: any file may include it, whatever flags it is compiled with.

    Those of operators beside the product have a namespace of their own.
    """
    domains = ", ".join(f'"{name}"' for name in OP.domain_names)
    lines = [
        "// Generated from dualbinary/contract/op.toml by dualbinary.contract.codegen. Do not edit.",
        "#pragma once",
        "",
        "#include <cstdint>",
        "",
        "namespace dualbinary::contract {",
        "",
        f'inline constexpr char kDomain[] = "{OP.domain}";',
        "// The operators mean the same in each of them.",
        f"inline constexpr const char* kDomains[] = {{{domains}}};",
        f"inline constexpr int kOpVersion = {OP.version};",
        f'inline constexpr char kVersionAttribute[] = "{OP.version_attribute}";',
        f'inline constexpr char kDigest[] = "{digest()}";',
        "",
        *_operator_constants(OP),
        "",
    ]
    for prefix, table in (("Cuda", OP.cuda), ("ScaleCode", OP.scale_codes), ("Block", OP.blocks)):
        lines += _numbers(prefix, table)
    for layout in OP.layouts:
        lines.append(f"inline constexpr std::int64_t kLayout{_camel(layout.name)} = {layout.number};")
    names = ", ".join(f'"{layout.name}"' for layout in OP.layouts)
    lines.append(f"inline constexpr const char* kLayoutNames[] = {{{names}}};  // numbers {_consecutive_numbers()}")
    for operator in OPERATORS:
        if operator is not OP:
            lines += ["", f"namespace {_snake(operator.name)} {{", "", *_operator_constants(operator), "", "}"]
    lines += ["", "}  // namespace dualbinary::contract", ""]
    return "\n".join(lines)


def _operator_constants(operator: Operator) -> list[str]:
    """Name, limits, numbers of inputs, and attributes."""
    lines = [f'inline constexpr char kOpName[] = "{operator.name}";', *_numbers("", operator.limits), ""]
    for index, value in enumerate(operator.inputs):
        lines.append(f"inline constexpr int kInput{_camel(value.name)} = {index};")
    lines += [f"inline constexpr int kInputCount = {len(operator.inputs)};", ""]
    for attribute in operator.attributes:
        name = _camel(attribute.name)
        lines.append(f'inline constexpr char kAttr{name}[] = "{attribute.name}";')
        if attribute.default is not None:
            kind = "float" if attribute.type == "float" else "std::int64_t"
            suffix = "F" if attribute.type == "float" else ""
            lines.append(f"inline constexpr {kind} kAttr{name}Default = {attribute.default}{suffix};")
        if attribute.minimum is not None:
            lines.append(f"inline constexpr std::int64_t kAttr{name}Minimum = {attribute.minimum};")
        for value in attribute.values:
            lines.append(f"inline constexpr std::int64_t kAttr{name}{value} = {value};")
    return lines


def _numbers(prefix: str, table: dict[str, int]) -> list[str]:
    return [f"inline constexpr std::int64_t k{prefix}{_camel(key)} = {value};" for key, value in table.items()]


_DOMAINS = (
    f"They are in the domains `{OP.domain_names[0]}`, `{OP.domain_names[1]}` to `{OP.domain_names[-1]}` and mean the "
    "same in each: a function in a model is known by domain and name, and some formats need their own."
)


_VERSIONS = (
    f"A node of a version after 2 says so in the attribute `{OP.version_attribute}`: ONNX Runtime does not tell an "
    "operator under which version of its domain a node stands, and a library that does not know it refuses the node."
)


def reference_page() -> str:
    """Text of docs/op_reference.md."""
    lines = [
        f"# Operators of the domain {OP.domain}, version {OP.version}",
        "",
        "<!-- Generated from dualbinary/contract/op.toml by dualbinary.contract.codegen. Do not edit. -->",
        "",
        _DOMAINS,
        "",
        _VERSIONS,
    ]
    for operator in OPERATORS:
        lines += ["", *_operator_section(operator), *(_product_sections() if operator is OP else [])]
    return "\n".join(lines) + "\n"


def _operator_section(operator: Operator) -> list[str]:
    """What every operator says: formula, symbols, inputs and outputs, attributes, unusual numbers."""
    lines = [
        f"## {operator.name}",
        "",
        operator.summary,
        "",
        "```text",
        operator.formula.strip(),
        "```",
        "",
        "| symbol | meaning |",
        "| --- | --- |",
        *(f"| {symbol} | {text} |" for symbol, text in operator.symbols.items()),
        "",
        "### Inputs and outputs",
        "",
        "| name | types | shape | meaning |",
        "| --- | --- | --- | --- |",
        *(
            f"| {v.name} | {', '.join(v.types)} | [{', '.join(v.shape)}] | {'Optional. ' * v.optional}{v.text} |"
            for v in (*operator.inputs, *operator.outputs)
        ),
        "",
        "### Attributes",
        "",
        "| name | type | default | allowed | since | meaning |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for a in operator.attributes:
        least = "any" if a.minimum is None else f">= {a.minimum}"
        allowed = ", ".join(map(str, a.values)) or least
        default = "required" if a.default is None else str(a.default)
        lines.append(f"| {a.name} | {a.type} | {default} | {allowed} | {a.since} | {a.text} |")
    lines += ["", "### Unusual numbers", "", "| given | result |", "| --- | --- |"]
    return lines + [f"| {given} | {result} |" for given, result in operator.unusual.items()]


def _product_sections() -> list[str]:
    """What the product alone has: limits by provider, and stored layouts."""
    limits, cuda = OP.limits, OP.cuda
    return [
        "",
        "### Limits",
        "",
        "| limit | CPUs | CUDA devices |",
        "| --- | --- | --- |",
        f"| P | {limits['min_planes']} to {limits['max_planes']} | {limits['min_planes']} to {cuda['max_planes']} |",
        f"| K | up to {limits['max_dimension']} | up to {cuda['max_k']} |",
        f"| N | up to {limits['max_dimension']} | up to {limits['max_dimension']} |",
        f"| layout | {OP.layouts[0].name}, and that of the CPU's instruction set | {OP.layouts[0].name} |",
        "",
        "### Stored layouts",
        "",
        "A number never changes its meaning. Scales are little-endian. A tensor in external data starts at a multiple",
        "of its alignment.",
        "",
        "| number | name | alignment | meaning |",
        "| --- | --- | --- | --- |",
        *(f"| {layout.number} | {layout.name} | {layout.alignment} | {layout.text} |" for layout in OP.layouts),
        "",
        "[layouts.md](layouts.md) shows them byte by byte.",
    ]


def _consecutive_numbers() -> str:
    """The layouts' numbers, which index the list of names: from 1, without gaps."""
    numbers = [layout.number for layout in OP.layouts]
    assert numbers == list(range(1, len(numbers) + 1))
    return f"{numbers[0]} to {numbers[-1]}"


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m dualbinary.contract.codegen", description="Derive files from the contract."
    )
    parser.add_argument("--header", type=Path, metavar="PATH", help="write the C++ header")
    parser.add_argument("--docs", type=Path, metavar="PATH", help="write the operator's reference page")
    parser.add_argument(
        "--golden",
        type=Path,
        metavar="DIR",
        help="write the golden vectors of layouts and other operators",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is not up to date")
    args = parser.parse_args(argv)
    wanted_files = [(path, text) for path, text in ((args.header, header), (args.docs, reference_page)) if path]
    wanted_files += [(args.golden / name, text) for name, text in _golden_files()] if args.golden else []
    stale = []
    for path, text in wanted_files:
        wanted = text()
        if path.exists() and path.read_text(encoding="utf-8") == wanted:
            continue  # an untouched time stamp keeps the C++ build from recompiling
        stale.append(path)
        if not args.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted, encoding="utf-8")
    if args.check and stale:
        print(f"out of date: {', '.join(map(str, stale))}; run `make docs`", file=sys.stderr)
        return 1
    return 0


def _golden_files() -> Iterator[tuple[str, Callable[[], str]]]:
    for layout, version in product(OP.layouts, range(1, OP.version + 1)):
        if version >= layout.since:
            yield golden.file_name(layout.number, version), partial(golden.text, layout.number, version)
    yield hadamard.FILE_NAME, hadamard.text
    yield blocks.FILE_NAME, blocks.text


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _camel(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


if __name__ == "__main__":
    sys.exit(main())
