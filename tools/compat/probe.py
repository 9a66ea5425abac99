"""What runs in the environment of another version: greedy tokens of models, or why there are none, as lines of JSON.

`python probe.py library|function COUNT ID... -- OUT.onnx...` needs NumPy and ONNX Runtime and finds this project by
PYTHONPATH. Warnings of this project's modules are errors. A model that ends the process has no line.
"""

import json
import sys
import warnings
from pathlib import Path


def main() -> None:
    """Print a JSON object for each model: `tokens`, or `error` with `ours`: whether a message is this project's."""
    way, count, *words = sys.argv[1:]
    end = words.index("--")
    prompt = [int(word) for word in words[:end]]
    warnings.filterwarnings("error", module=r"(dualbinary|runtime_ext)\b")
    from dualbinary.errors import DualBinaryError

    for model in words[end + 1 :]:
        try:
            said: dict[str, object] = {"tokens": tokens(Path(model), way == "library", prompt, int(count))}
        except Exception as error:
            ours = isinstance(error, DualBinaryError)
            said = {"error": str(error) if ours else f"{type(error).__name__}: {error}", "ours": ours}
        print(json.dumps(said), flush=True)


def tokens(model: Path, library: bool, prompt: list[int], count: int) -> list[int]:
    """The `count` tokens of the highest logits behind `prompt`."""
    from runtime_ext.decoder import Decoder

    decoder = Decoder.load(model, library=library)
    decoder.start(len(prompt) + count)
    logits = decoder.step(prompt)
    found: list[int] = []
    while len(found) < count:
        found.append(int(logits.argmax()))
        if len(found) < count:
            logits = decoder.step(found[-1:])
    return found


if __name__ == "__main__":
    main()
