"""Linux with musl: nobody publishes ONNX Runtime for it where pip finds it, so that only our library runs there."""

from tools.hosts.task import NotHereError, Task

__all__ = ["NAME", "tokens"]

NAME = "Linux with musl"


def tokens(task: Task) -> list[int]:
    """Raise NotHereError: there is no ONNX Runtime to run a model with."""
    raise NotHereError(
        "onnxruntime has no wheel for musl; what runs there is our library by its C interface, in "
        "tests/tools/test_foreign_wheels.py"
    )
