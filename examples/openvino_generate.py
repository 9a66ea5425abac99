"""Load an export in OpenVINO, without ONNX Runtime, and continue a text.

    python -m exporter MODEL_DIR OUT.onnx --op matmulnbits
    python -m examples.openvino_generate OUT.onnx "The capital of France is" [DEVICE]

OpenVINO reads MatMulNBits and the other operators of such a file; it takes no functions inside of a model, which other
exports have. DEVICE is a name of OpenVINO's, CPU unless one is given.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino
from tokenizers import Tokenizer

from dualbinary.files.cache_names import present_name

NEW_TOKENS = 32


def continued(model: Path, ids: Sequence[int], count: int, device: str = "CPU") -> list[int]:
    """Return the `count` likeliest tokens after `ids`, one after another."""
    # Otherwise OpenVINO computes in bfloat16 on CPUs that have it.
    settings = {"INFERENCE_PRECISION_HINT": "f32"} if device == "CPU" else {}
    compiled = openvino.compile_model(model, device, settings)
    feeds = {"input_ids": np.array([ids])}
    pasts: dict[str, str] = {}  # by the output that gives the next one
    for value in compiled.inputs:
        name = value.any_name
        if (present := present_name(name)) is not None:  # keys and values of no tokens, or a state
            sizes = (0 if size.is_dynamic else size.get_length() for size in list(value.partial_shape)[1:])
            feeds[name], pasts[present] = np.zeros((1, *sizes), value.element_type.to_dtype()), name
    declared = {name for value in compiled.inputs for name in value.names}
    found = list(ids)
    while len(found) < len(ids) + count:
        feeds["attention_mask"] = np.ones((1, len(found)), np.int64)
        if "position_ids" in declared:
            feeds["position_ids"] = np.arange(len(found))[None, -feeds["input_ids"].shape[1] :]
        outputs = compiled(feeds)
        found.append(int(outputs["logits"][0, -1].argmax()))
        feeds = {past: outputs[present] for present, past in pasts.items()}
        feeds["input_ids"] = np.array([found[-1:]])
    return found[len(ids) :]


def main(model: str, prompt: str, device: str = "CPU") -> None:
    """Print `prompt` with its likeliest continuation."""
    tokenizer = Tokenizer.from_file(str(Path(model).with_name("tokenizer.json")))
    ids = tokenizer.encode(prompt).ids
    print(tokenizer.decode([*ids, *continued(Path(model), ids, NEW_TOKENS, device)]))


if __name__ == "__main__":
    main(*sys.argv[1:])
