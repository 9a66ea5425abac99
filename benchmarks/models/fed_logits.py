"""Logits of one engine over given tokens, in a process of its own.

    python -m benchmarks.models.fed_logits dualbinary|llama.cpp|exact FILE REQUEST.json OUT.npy [--options JSON]

REQUEST has `prompts`, lists of token ids; `following`, a list of ids for each, or null for what this engine finds most
likely; `tokens` to feed after a prompt, one by one; and `threads`. OUT is float32 [prompts, tokens, V]: the logits that
each of the tokens is chosen by. Engine "exact" computes what the stored numbers of a GGUF file say (exact_model.py), in
one pass over given tokens.

benchmarks.models.same_gguf starts it, with the Python that has the engine.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models.engine import ENGINES, Engine


def logits_of(engine: Engine, request: dict[str, Any]) -> np.ndarray:
    """Feed a request to a loaded engine."""
    count = request["tokens"]
    following: Sequence[Sequence[int] | None] = request["following"] or [None] * len(request["prompts"])
    found = []
    for prompt, given in zip(request["prompts"], following, strict=True):
        engine.start(len(prompt) + count)
        rows = [np.array(engine.feed(prompt), np.float32)]  # a copy: an engine may reuse its buffer
        while len(rows) < count:
            token = int(rows[-1].argmax()) if given is None else given[len(rows) - 1]
            rows.append(np.array(engine.feed([token]), np.float32))
        found.append(np.stack(rows))
    return np.stack(found)


def _exact(path: Path, request: dict[str, Any]) -> np.ndarray:
    # Only here: the other engines run where neither torch nor this project is.
    make: Any = importlib.import_module("benchmarks.models.exact_model").ExactModel
    model, count = make(path, request["threads"]), request["tokens"]
    pairs = zip(request["prompts"], request["following"], strict=True)
    return np.stack([model.logits([*prompt, *given[: count - 1]], count) for prompt, given in pairs])


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models.fed_logits", description="Logits of an engine.")
    parser.add_argument("engine", choices=[*ENGINES, "exact"])
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("request", type=Path, metavar="REQUEST.json")
    parser.add_argument("out", type=Path, metavar="OUT.npy")
    parser.add_argument("--options", default="{}", metavar="JSON", help="of the engine")
    args = parser.parse_args()
    request = json.loads(args.request.read_text(encoding="utf-8"))
    if args.engine == "exact":
        np.save(args.out, _exact(args.file, request))
        return 0
    capacity = max(map(len, request["prompts"])) + request["tokens"]
    engine = ENGINES[args.engine](args.file, request["threads"], capacity, json.loads(args.options))
    np.save(args.out, logits_of(engine, request))
    return 0


if __name__ == "__main__":
    sys.exit(main())
