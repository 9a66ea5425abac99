import re
from pathlib import Path

import pytest

from dualbinary import OP, digest
from dualbinary.contract import codegen
from dualbinary.contract.schema import OPERATORS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("option", "file"),
    [("--docs", "docs/op_reference.md"), ("--golden", "dualbinary/contract/golden")],
)
def test_committed_file_is_what_codegen_writes(option, file):
    assert codegen.main([option, str(ROOT / file), "--check"]) == 0


@pytest.mark.parametrize(
    ("option", "name"),
    [("--header", ""), ("--docs", ""), ("--golden", "layout4.json"), ("--golden", "signed_hadamard.json")],
)
def test_check_reports_a_stale_file_and_writes_nothing(tmp_path, capsys, option, name):
    argument = tmp_path / "sub" / "file"  # a directory where the files in it have names of their own
    path = argument / name
    assert codegen.main([option, str(argument), "--check"]) == 1
    assert not argument.parent.exists()
    assert codegen.main([option, str(argument)]) == 0
    assert codegen.main([option, str(argument), "--check"]) == 0
    path.write_text(path.read_text() + "x")
    assert codegen.main([option, str(argument), "--check"]) == 1
    assert path.name in capsys.readouterr().err


def test_file_that_is_up_to_date_keeps_its_time_stamp(tmp_path):
    path = tmp_path / "contract.h"
    codegen.main(["--header", str(path)])
    before = path.stat().st_mtime_ns
    codegen.main(["--header", str(path)])
    assert path.stat().st_mtime_ns == before


def test_header_holds_every_name_and_limit_of_the_contract():
    text = codegen.header()
    constants = dict(re.findall(r"inline constexpr \S+ (k\w+?)(?:\[\])? = (.*);", text))
    assert constants["kDomain"] == f'"{OP.domain}"'
    assert constants["kDigest"] == f'"{digest()}"'
    assert constants["kMaxPlanes"] == str(OP.limits["max_planes"])
    assert constants["kCudaMaxK"] == str(OP.cuda["max_k"])
    assert constants["kInputScales"] == "2"
    assert f'kOpName[] = "{OP.name}"' in text
    for attribute in OP.attributes:
        assert f'"{attribute.name}"' in constants.values()
    for operator in OPERATORS[1:]:
        space = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", operator.name).lower()
        section = text.split(f"namespace {space} {{")[1].split("\n}\n")[0]
        own = dict(re.findall(r"constexpr \S+ (k\w+?)(?:\[\])? = (.*);", section))
        assert own["kOpName"] == f'"{operator.name}"'
        assert own["kInputCount"] == str(len(operator.inputs))
        assert {f'"{attribute.name}"' for attribute in operator.attributes} < set(own.values())
        assert {str(limit) for limit in operator.limits.values()} < set(own.values())
    # Only constants: a file compiled for one instruction set may include it without leaking code to another.
    assert all(re.match(r"$|//|#|namespace|}|inline constexpr ", line) for line in text.splitlines())


def test_every_operator_has_a_section_of_the_reference_page():
    page = codegen.reference_page()
    assert re.findall("(?m)^## (.*)$", page) == [operator.name for operator in OPERATORS]
    for operator in OPERATORS:
        section = page.split(f"\n## {operator.name}\n")[1].split("\n## ")[0]
        rows = (*operator.inputs, *operator.outputs, *operator.attributes)
        assert all(f"\n| {row.name} |" in section and row.text in section for row in rows)


def test_operators_share_their_domains_and_the_version_of_these():
    assert {(o.domain_names, o.version) for o in OPERATORS} == {(OP.domain_names, OP.version)}


def test_operator_lookups_find_what_the_contract_names_and_nothing_else():
    assert OP.attribute("layout").values == tuple(layout.number for layout in OP.layouts)
    assert OP.layout_named("neon") is OP.layout(4)
    with pytest.raises(KeyError):
        OP.attribute("bits")
    with pytest.raises(KeyError):
        OP.layout(99)
    with pytest.raises(KeyError):
        OP.layout_named("sve")
