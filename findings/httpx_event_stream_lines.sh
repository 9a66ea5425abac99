#!/usr/bin/env bash
# httpx2 ends lines of a response at U+0085, U+2028 and U+2029, which are characters like others in JSON and in events.
#
# Software: httpx2 2.16.2
# Input: a response of type text/event-stream with one event, whose data is a JSON object with these characters, in UTF-8
#   as it may be: JSON escapes none of them, and lines of an event stream end with CR, LF or both.
# Expected: iter_lines() gives the line of the event and the empty one that ends it.
# Observed: four lines and the empty one; no part of the event is JSON. A client of a language model that reads its stream
#   so fails at the first answer with such a character. The same object with escapes is one line.
#
# Output seen on 2026-11-29:
#   as UTF-8: ['data: {"text": "a', 'b', 'c', 'd"}', '']
#   escaped: ['data: {"text": "a\\u0085b\\u2028c\\u2029d"}', '']
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check httpx2==2.16.2
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import json

import httpx2

value = {"text": "a\x85b\u2028c\u2029d"}


def lines(data: str) -> list[str]:
    headers = {"content-type": "text/event-stream; charset=utf-8"}
    return list(httpx2.Response(200, headers=headers, content=f"data: {data}\n\n".encode()).iter_lines())


plain = lines(json.dumps(value, ensure_ascii=False))
escaped = lines(json.dumps(value))
print("as UTF-8:", plain)
print("escaped:", escaped)
assert plain == ['data: {"text": "a', "b", "c", 'd"}', ""], "changed"
assert len(escaped) == 2
assert json.loads(escaped[0].removeprefix("data: ")) == value
PYTHON
