"""Exports without the library in sessions that fold no constants, as hosts can ask for: slower, but the same logits."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from tests.support.sessions import outputs

IDS = np.array([[5, 6, 7, 8, 9]])
# Activations of a wide product or of level 4 are rounded where codes are constants, and not where they are computed.
TOLERANCE = {0: 1e-3, 4: 6e-2}

EXPORTS: dict[str, dict[str, Any]] = {
    "default": {},
    "float16": {"dtype": "fp16"},
    "two planes": {"planes": 2, "levels": "free", "group_size": 64},
    "four planes, level 4": {"planes": 4, "levels": "even", "accuracy_level": 4},
    "eight planes, level 4": {"planes": 8, "levels": "even", "accuracy_level": 4},
    "two bits, level 4": {"planes": 2, "levels": "even", "accuracy_level": 4, "fallback": "ort2"},
    "table of four bits": {"planes": 2, "levels": "even", "embedding_bits": 4},
    "stock": {"planes": 4, "levels": "even", "op": "matmulnbits"},
}


def without_folding(inlined: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    if inlined:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    else:
        options.add_session_config_entry("session.disable_aot_function_inlining", "1")
    return options


def logits_of(out: Path, options: ort.SessionOptions) -> np.ndarray:
    session = ort.InferenceSession(str(out), options, providers=["CPUExecutionProvider"])
    return outputs(session, IDS, np.ones_like(IDS))[0].astype(np.float32)


@pytest.mark.parametrize("inlined", [True, False], ids=["no optimizations", "functions stay"])
@pytest.mark.parametrize("name", EXPORTS)
def test_logits_are_those_of_an_optimized_session(kept, name, inlined):
    _, out = kept("llama_tied", logits="all", **EXPORTS[name])
    expected = logits_of(out, ort.SessionOptions())
    found = logits_of(out, without_folding(inlined))

    bound = TOLERANCE[EXPORTS[name].get("accuracy_level", 0)] * (5 if "fp16" in EXPORTS[name].values() else 1)
    assert np.abs(found - expected).max() <= bound * np.abs(expected).max()
