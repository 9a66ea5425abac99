#!/usr/bin/env bash
# transformers cannot make the configuration of an EXAONE 4 without a sliding window.
#
# Software: transformers 5.23.0
# Input: Exaone4Config(sliding_window=None), all else by default: every layer sees all keys.
# Expected: a configuration whose layers have full attention.
# Observed: ZeroDivisionError, unless layer_types is given as well.
#
# Output seen on 2026-11-28:
#   sliding_window=None: ZeroDivisionError
#   with layer_types: ['full_attention', 'full_attention']
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0
"$work/venv/bin/python" 2>/dev/null - <<'PYTHON'
from transformers import AutoConfig

try:
    AutoConfig.for_model("exaone4", sliding_window=None)
    seen = "no error"
except ZeroDivisionError as error:
    seen = type(error).__name__
print(f"sliding_window=None: {seen}")
types = ["full_attention"] * 2
config = AutoConfig.for_model("exaone4", sliding_window=None, num_hidden_layers=2, layer_types=types)
print(f"with layer_types: {config.layer_types}")
raise SystemExit(0 if seen == "ZeroDivisionError" and config.layer_types == types else "the behavior has changed")
PYTHON
