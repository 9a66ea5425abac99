"""Load an exported model in plain ONNX Runtime, register the operator's library, continue a text.

    python -m examples.quickstart OUT.onnx "The capital of France is"

This is the whole contract with a host program; `python -m runtime_ext generate` adds shared cache buffers, sampling,
streaming and chat templates.
"""

import argparse
from pathlib import Path

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

import runtime_ext
from dualbinary.files.cache_names import present_name

NEW_TOKENS = 32
CACHE_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int8)": np.int8}


def continued(model: str, prompt: str) -> str:
    """Return `prompt` with its likeliest continuation."""
    options = ort.SessionOptions()
    runtime_ext.register(options)  # without this line the function inside the model runs instead: slower
    session = ort.InferenceSession(model, options)
    tokenizer = Tokenizer.from_file(str(Path(model).with_name("tokenizer.json")))

    ids = tokenizer.encode(prompt).ids
    feeds = {"input_ids": np.array([ids])}
    pasts: dict[str, str] = {}  # by the output that gives the next one
    for value in session.get_inputs():
        if (present := present_name(value.name)) is not None:  # keys and values of no tokens, or a state
            sizes = (size if isinstance(size, int) else 0 for size in value.shape[1:])
            feeds[value.name], pasts[present] = np.zeros((1, *sizes), CACHE_TYPES[value.type]), value.name
    declared = {value.name for value in session.get_inputs()}
    names = ["logits", *pasts]
    for _ in range(NEW_TOKENS):
        feeds["attention_mask"] = np.ones((1, len(ids)), np.int64)
        if "position_ids" in declared:
            feeds["position_ids"] = np.arange(len(ids))[None, -feeds["input_ids"].shape[1] :]
        outputs = dict(zip(names, map(np.asarray, session.run(names, feeds)), strict=True))
        ids.append(int(outputs.pop("logits")[0, -1].argmax()))
        feeds = {pasts[name]: value for name, value in outputs.items()}
        feeds["input_ids"] = np.array([ids[-1:]])
    return tokenizer.decode(ids)


def main(argv: list[str] | None = None) -> None:
    """Print a text with its likeliest continuation."""
    parser = argparse.ArgumentParser(description="Continue a text in plain ONNX Runtime.")
    parser.add_argument("model", metavar="OUT.onnx", help="written by python -m exporter")
    parser.add_argument("prompt", metavar="TEXT")
    args = parser.parse_args(argv)
    print(continued(args.model, args.prompt))


if __name__ == "__main__":
    main()
