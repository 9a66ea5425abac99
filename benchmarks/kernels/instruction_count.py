"""Instructions per weight in the innermost loops of a built library, from its disassembly.

    python -m benchmarks.kernels.instruction_count build/aarch64/libdualbinary.so [--match "4>"]

Prints a line for each innermost loop that multiplies: the function, its instructions in one turn, those that do the
work (lookups or matrix products), moves between registers, accesses to the stack (spilled registers), and instructions
per weight and row of X. Each byte that a lookup of a table kernel returns serves four inputs of one plane, and each
digit of an entry takes a lookup; a weight here has two planes. A matrix product of a level kernel counts whole weights;
its loops of lookups unpack weights, once for all rows of a tile, with one to four planes.

Only loops are counted, not the scales and sums of each segment and output. Needs binutils for the library's CPU, and a
library with symbols, as in the build tree.
"""

import argparse
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PLANES = 2
INPUTS_OF_A_NIBBLE = 4
LOOKUP_BYTES = {"tbl": 16, "vpshufb": 32, "vpermb": 64}
"""Bytes that a lookup returns; each is an entry of one output and nibble, one digit of it."""
WEIGHTS_OF_A_PRODUCT = {"usmmla": 32}
OBJDUMP = {183: "aarch64-linux-gnu-objdump", 62: "objdump"}
"""By ELF machine number."""
MOVES = ("mov", "vmovdqa", "vmovdqa64", "vmovaps")

FUNCTION = re.compile(r"^[0-9a-f]+ <(.*)>:$")
INSTRUCTION = re.compile(r"^\s+([0-9a-f]+):\t(\S+)\s*(.*)$")
TARGET = re.compile(r"(?:^|[ ,])(?:0x)?([0-9a-f]+) <")


@dataclass(frozen=True)
class Loop:
    """An innermost loop: the instructions of one turn as (mnemonic, operands)."""

    function: str
    body: list[tuple[str, str]]

    def count(self, *names: str) -> int:
        """Count the instructions of these names."""
        return sum(name in names for name, _ in self.body)

    @property
    def spills(self) -> int:
        """Accesses to the stack."""
        return sum("[sp" in operands or "(%rsp" in operands for _, operands in self.body)

    def weights(self) -> float:
        """Count the weights, times rows of X, that one turn multiplies."""
        digits = re.search(r"(?:(?:Neon|Avx\w*), |accumulate_even_rows<)(\d)", self.function)
        per_entry = INPUTS_OF_A_NIBBLE / PLANES / (int(digits.group(1)) if digits else 1)
        if "multiply_levels" in self.function:
            per_entry = 1
        lookups = sum(self.count(name) * size for name, size in LOOKUP_BYTES.items()) * per_entry
        return self.count(*WEIGHTS_OF_A_PRODUCT) * WEIGHTS_OF_A_PRODUCT["usmmla"] or lookups


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", type=Path)
    parser.add_argument("--match", default="", help="only functions whose name contains this")
    args = parser.parse_args()
    print(f"{'per weight':>10} {'all':>5} {'work':>5} {'moves':>5} {'stack':>5}  function")
    for loop in loops(disassembly(args.library)):
        if args.match not in loop.function or not re.search("multiply|accumulate", loop.function) or not loop.weights():
            continue
        work = loop.count(*LOOKUP_BYTES, *WEIGHTS_OF_A_PRODUCT)
        per_weight = len(loop.body) / loop.weights()
        print(f"{per_weight:10.3f} {len(loop.body):5} {work:5} {loop.count(*MOVES):5} {loop.spills:5}  {loop.function}")


def disassembly(library: Path) -> str:
    """Disassemble the library's code."""
    machine = struct.unpack_from("<H", library.read_bytes()[:20], 18)[0]
    name = OBJDUMP.get(machine)
    objdump = shutil.which(name) if name else None
    if objdump is None:
        sys.exit(f"{library}: no {name or 'objdump'} for ELF machine {machine}; it is in Debian's binutils packages")
    command = [objdump, "--disassemble", "--demangle", "--no-show-raw-insn", str(library)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def loops(text: str) -> Iterator[Loop]:
    """Yield the innermost loops: from the target of a backward branch to the branch, with no other such pair within."""
    for block in text.split("\n\n"):
        lines = block.splitlines()
        name = next((match.group(1) for line in lines if (match := FUNCTION.match(line))), None)
        code = [match.groups() for line in lines if (match := INSTRUCTION.match(line))]
        if name is None or not code:
            continue
        place = {int(address, 16): i for i, (address, _, _) in enumerate(code)}
        ends = [
            (start, i) for i, line in enumerate(code) if (start := _branch_to(line, place)) is not None and start <= i
        ]
        for start, end in ends:
            if not any(start <= s and e <= end and (s, e) != (start, end) for s, e in ends):
                yield Loop(_short(name), [(mnemonic, operands) for _, mnemonic, operands in code[start : end + 1]])


def _branch_to(line: tuple[str, ...], place: dict[int, int]) -> int | None:
    _, mnemonic, operands = line
    target = TARGET.search(operands) if mnemonic.startswith(("b", "j", "cb", "tb")) else None
    return place.get(int(target.group(1), 16)) if target else None


def _short(name: str) -> str:
    name = name.replace("dualbinary::", "").replace("(anonymous namespace)::", "")
    kernel = re.search(r"(multiply|accumulate)_\w+(<[^()]*>)?", name)
    return kernel.group() if kernel else name


if __name__ == "__main__":
    main()
