"""64-bit Arm under qemu: the cross-built library in the Python and the ONNX Runtime of that system."""

import json

from tools import emulate
from tools.foreign.command import call
from tools.hosts.task import NotHereError, Task

NAME = "64-bit Arm under qemu"
# Without dotprod, with it, and with i8mm: three kernels.
CPUS = ("cortex-a53", "neoverse-n1", "arm-max")
PROGRAM = """
import json, sys
from pathlib import Path
from runtime_ext.decoder import Decoder
model, prompt, count = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
decoder = Decoder.load(Path(model), threads=1)
decoder.start(len(prompt) + count)
answer = [int(decoder.step(prompt).argmax())]
while len(answer) < count:
    answer.append(int(decoder.step(answer[-1:]).argmax()))
print(json.dumps(answer))
"""


def on_cpu(task: Task, cpu: str) -> list[int]:
    """The tokens on one of CPUS."""
    try:
        python = emulate.interpreter(emulate.CPUS[cpu])
    except emulate.EmulationError as error:
        raise NotHereError(str(error)) from error
    return json.loads(call(python, "-c", PROGRAM, task.model, json.dumps(task.prompt_ids), task.count))


def tokens(task: Task) -> list[int]:
    """The tokens on every one of CPUS, where these agree."""
    answers = {cpu: on_cpu(task, cpu) for cpu in CPUS}
    first = answers[CPUS[0]]
    if different := [cpu for cpu in CPUS if answers[cpu] != first]:
        raise AssertionError(f"{different[0]} gives {answers[different[0]]}, {CPUS[0]} gives {first}")
    return first
