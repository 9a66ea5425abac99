"""One load of a model in this process: times and memory as a JSON object on standard output.

    python -m benchmarks.models.load_once FILE THREADS

benchmarks.models.load_time starts it. Nothing is imported that a device would not, so that memory is the model's. Linux
only.
"""

import argparse
import json
import time
from pathlib import Path

from runtime_ext.decoder import Decoder

_TOKEN = 100  # below any vocabulary in use


def memory() -> dict[str, int]:
    """Read the bytes of this process: VmHWM, its peak, and RssAnon."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
    return {name: int(values[name][0]) * 1024 for name in ("VmHWM", "RssAnon")}


def load_once(path: Path, threads: int) -> dict[str, float]:
    """Load the model in this process, which should have done nothing else, and feed it one token."""
    before = memory()
    begin = time.perf_counter()
    decoder = Decoder.load(path, threads)
    loaded = time.perf_counter()
    ready = memory()
    decoder.start(16)
    step = time.perf_counter()
    decoder.step([_TOKEN])
    return {
        "load": loaded - begin,
        "token": time.perf_counter() - step,
        "anon": ready["RssAnon"],
        "peak": ready["VmHWM"],
        "own peak": ready["VmHWM"] - before["VmHWM"],
        "peak, token": memory()["VmHWM"],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models.load_once", description="Load a model once.")
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("threads", type=int, metavar="THREADS")
    args = parser.parse_args()
    print(json.dumps(load_once(args.file, args.threads)))
