"""The execution provider that runs a model, CPU or CUDA, with the options of ONNX Runtime that suit a decoder.

ONNX Runtime falls back to the CPU silently where CUDA is not available. Here that is an error: who asked for a GPU
wants to know. For the CUDA provider, beyond the device:

    arena_extend_strategy   kSameAsRequested: the memory pool grows by what is asked for and never doubles
    use_tf32                0: float32 products keep 24 bits, as on the CPU
    enable_cuda_graph       1 with `cuda_graph`: a step is captured once and replayed (runtime_ext/decoder.py)
"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dualbinary import DualBinaryError
from dualbinary.cli.options import check_options, option
from dualbinary.errors import OptionError

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["CPU", "PROVIDERS", "Provider"]

_NAMES = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
PROVIDERS = tuple(_NAMES)


@dataclass(frozen=True)
class Provider:
    """An execution provider. Its name, "cpu" or "cuda", is also ONNX Runtime's name of its kind of memory."""

    name: str = option(
        "cpu", help="where the model runs", choices=PROVIDERS, names=("--provider",), group="execution provider"
    )
    device: int = option(0, help="index of the GPU, with {name} cuda", minimum=0)
    cuda_graph: bool = option(
        False,
        help="capture a step of one token as a CUDA graph and replay it, with {name} cuda; not yet tried on a GPU",
    )

    def __post_init__(self) -> None:
        """Raise OptionError for an unknown provider, or an option that it does not have."""
        check_options(self)
        if self.name == "cpu" and (self.device or self.cuda_graph):
            given = "{cuda_graph}" if self.cuda_graph else f"{{device}} {self.device}"
            raise OptionError("name", f"cuda with {given}", self.name)

    def session_providers(self) -> list[Any]:
        """The `providers` of onnxruntime.InferenceSession. Raises OptionError where ONNX Runtime lacks it."""
        if self.name == "cpu":
            return [_NAMES["cpu"]]
        import onnxruntime as ort  # late: a command that prints its help does without

        available = ort.get_available_providers()
        if _NAMES["cuda"] not in available:
            raise OptionError(
                "name",
                f"a provider that this onnxruntime {ort.__version__} has ({', '.join(available)})",
                self.name,
                "install onnxruntime-gpu in place of onnxruntime, or use {name} cpu",
            )
        # CUDA's libraries in Python packages are not on the loader's path; what is missing is printed, to stdout.
        with contextlib.redirect_stdout(sys.stderr):
            ort.preload_dlls()
        options = {
            "device_id": str(self.device),
            "arena_extend_strategy": "kSameAsRequested",
            "use_tf32": "0",
            "enable_cuda_graph": str(int(self.cuda_graph)),
        }
        # Nodes that compute shapes stay on the CPU in either case.
        return [(_NAMES["cuda"], options), _NAMES["cpu"]]

    def check(self, session: ort.InferenceSession) -> None:
        """Raise DualBinaryError where `session` runs on another provider than this one."""
        import onnxruntime as ort  # as above

        running = session.get_providers()
        if _NAMES[self.name] not in running:
            raise DualBinaryError(
                f"provider {self.name}: CUDA device {self.device} could not be used and ONNX Runtime took "
                f"{', '.join(running)}, as its log says; see nvidia-smi for the device, and whether the CUDA and cuDNN "
                f"that onnxruntime-gpu {ort.__version__} wants are installed, or use the provider cpu"
            )


CPU = Provider()
