"""Where a model runs: ONNX Runtime's CPU or CUDA execution provider, with the options that decoding wants.

ONNX Runtime goes on silently on the CPU where CUDA cannot be had. Here that is an error: who asked for a GPU wants to
know. For the CUDA provider, beyond the device:

    arena_extend_strategy   kSameAsRequested: the memory pool grows by what is asked for and never doubles
    use_tf32                0: float32 products keep 24 bits, as on the CPU
    enable_cuda_graph       1 with `cuda_graph`: a step is captured once and replayed (runtime_ext/decoder.py)
"""

import argparse
import contextlib
import sys
from dataclasses import dataclass
from typing import Any

import onnxruntime as ort

from dualbinary import DualBinaryError, InputError

__all__ = ["CPU", "PROVIDERS", "Provider", "add_provider_options", "provider_of"]

_NAMES = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
PROVIDERS = tuple(_NAMES)


@dataclass(frozen=True)
class Provider:
    """An execution provider, "cpu" or "cuda", which is also ONNX Runtime's name of its kind of memory.

    device: index of the GPU; 0 for the CPU.
    cuda_graph: whether steps of one token are captured as a CUDA graph.
    """

    name: str = "cpu"
    device: int = 0
    cuda_graph: bool = False

    def __post_init__(self) -> None:
        """Raise InputError for an unknown provider, or a choice that it has not got."""
        if self.name not in _NAMES:
            raise InputError(f"--provider must be one of {', '.join(_NAMES)}, got {self.name}")
        if self.device < 0:
            raise InputError(f"--device must be 0 or more, got {self.device}")
        if self.name == "cpu" and (self.device or self.cuda_graph):
            option = "--cuda-graph" if self.cuda_graph else f"--device {self.device}"
            raise InputError(f"{option} is for --provider cuda, got --provider cpu")

    def session_providers(self) -> list[Any]:
        """The `providers` of onnxruntime.InferenceSession. Raises InputError where ONNX Runtime was built without."""
        if self.name == "cpu":
            return [_NAMES["cpu"]]
        available = ort.get_available_providers()
        if _NAMES["cuda"] not in available:
            raise InputError(
                f"--provider cuda: this onnxruntime {ort.__version__} has only {', '.join(available)}; install "
                "onnxruntime-gpu in place of onnxruntime, or use --provider cpu"
            )
        # CUDA's libraries out of Python packages lie where no loader looks; what is missing is printed, to stdout.
        with contextlib.redirect_stdout(sys.stderr):
            ort.preload_dlls()
        options = {
            "device_id": str(self.device),
            "arena_extend_strategy": "kSameAsRequested",
            "use_tf32": "0",
            "enable_cuda_graph": str(int(self.cuda_graph)),
        }
        # Nodes that work on shapes stay on the CPU in either case.
        return [(_NAMES["cuda"], options), _NAMES["cpu"]]

    def check(self, session: ort.InferenceSession) -> None:
        """Raise DualBinaryError where `session` runs on another provider than this one."""
        running = session.get_providers()
        if _NAMES[self.name] not in running:
            raise DualBinaryError(
                f"--provider {self.name}: CUDA device {self.device} could not be used and ONNX Runtime took "
                f"{', '.join(running)}, as its log says; see nvidia-smi for the device, and whether the CUDA and cuDNN "
                f"that onnxruntime-gpu {ort.__version__} wants are installed, or use --provider cpu"
            )


CPU = Provider()


def add_provider_options(parser: argparse.ArgumentParser) -> None:
    """Options of a command that runs a model."""
    group = parser.add_argument_group("execution provider")
    group.add_argument("--provider", default="cpu", choices=PROVIDERS, help="where the model runs (default cpu)")
    group.add_argument("--device", type=int, default=0, metavar="N", help="index of the GPU, with --provider cuda")
    group.add_argument(
        "--cuda-graph",
        action="store_true",
        help="capture a step as a CUDA graph and replay it, with --provider cuda; not yet tried on a GPU",
    )


def provider_of(args: argparse.Namespace) -> Provider:
    """What `add_provider_options` parsed. Raises InputError for options that do not go together."""
    return Provider(args.provider, args.device, args.cuda_graph)
