"""A team of two processes that one forks which has imported all they need: what a launcher does, for less.

python -m tests.support.forked_team ARGUMENTS of python -m calib
"""

import os
import runpy
import socket
import sys

SIZE = 2


def main() -> int:
    """Run the command in every process of the team; return the first exit code that is not 0."""
    import transformers.models.llama.modeling_llama  # noqa: F401  # for all children

    import calib.pipeline  # noqa: F401

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(SIZE)}
    children = [_start({**place, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(SIZE)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return next((code for code in codes if code), 0)


def _start(variables: dict[str, str]) -> int:
    child = os.fork()
    if child == 0:
        os.environ.update(variables)
        try:
            runpy.run_module("calib", run_name="__main__", alter_sys=True)
        finally:  # the command ends its process itself
            os._exit(70)
    return child


if __name__ == "__main__":
    sys.exit(main())
