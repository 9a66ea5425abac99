"""Load an export in OpenVINO, without ONNX Runtime, and continue a text.

    python -m exporter MODEL_DIR OUT.onnx --op matmulnbits
    python -m examples.openvino_generate OUT.onnx "The capital of France is"

OpenVINO reads MatMulNBits and the other operators of such a file; it takes no functions inside of a model, which the
default exports have.
"""

import argparse
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
    # Otherwise OpenVINO computes in bfloat16 on CPUs that have it, and rounds activations to 8 bits on those that
    # multiply bytes; GPUs and NPUs compute in float16.
    exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    settings = {} if device.startswith(("GPU", "NPU")) else exact
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


def main(argv: list[str] | None = None) -> None:
    """Print a text with its likeliest continuation."""
    parser = argparse.ArgumentParser(description="Continue a text in OpenVINO.")
    parser.add_argument("model", type=Path, metavar="OUT.onnx", help="exported with --op matmulnbits")
    parser.add_argument("prompt", metavar="TEXT")
    parser.add_argument("--device", default="CPU", help="as OpenVINO calls it: CPU, GPU, NPU (default CPU)")
    args = parser.parse_args(argv)
    files = [args.model, args.model.with_name("tokenizer.json")]
    for missing in (file for file in files if not file.is_file()):
        sys.exit(f"{missing}: no such file")
    tokenizer = Tokenizer.from_file(str(files[1]))
    ids = tokenizer.encode(args.prompt).ids
    if not ids:
        sys.exit("TEXT: expected some tokens, got none")
    try:
        print(tokenizer.decode([*ids, *continued(args.model, ids, NEW_TOKENS, args.device)]))
    except RuntimeError as error:  # the only class of OpenVINO's errors
        sys.exit(f"{args.model}: OpenVINO does not run it; was it exported with --op matmulnbits?\n{error}")


if __name__ == "__main__":
    main()
