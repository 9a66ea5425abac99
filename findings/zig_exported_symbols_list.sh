#!/usr/bin/env bash
# zig takes -exported_symbols_list for macOS and exports everything all the same.
#
# Software: ziglang 0.17.1, lief 1.0.0 (which reads the result)
# Input: a library for macOS of two functions in C, and a list with the name of one, which the linkers of Apple and of LLVM
#   take by -exported_symbols_list.
# Expected: one exported function, or "unsupported linker arg", as zig answers to -exported_symbol.
# Observed: no message, and both are exported.
#
# Output seen on 2026-11-29:
#   exit status 0, exported: _one _two
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
seen=$(sed -n '/^# Output seen/,/^#$/s/^#   //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check ziglang==0.17.1 lief==1.0.0
cd "$work"
echo 'int one(void) { return 1; } int two(void) { return 2; }' > two.c
echo '_one' > list.txt
status=0
"$work/venv/bin/python" -m ziglang cc -target aarch64-macos.11.0 -dynamiclib -Wl,-exported_symbols_list,list.txt \
  two.c -o two.dylib || status=$?
"$work/venv/bin/python" - "$status" > output.txt <<'PYTHON'
import sys

import lief

file = lief.MachO.parse("two.dylib")
names = sorted(symbol.name for symbol in file.at(0).exported_symbols)
print(f"exit status {sys.argv[1]}, exported:", *(name for name in names if name in ("_one", "_two")))
PYTHON
cat output.txt
diff <(echo "$seen") output.txt || { echo "the behavior has changed" >&2; exit 1; }
