"""onnxruntime-genai from Python, with the operator's library by its overlay."""

# onnxruntime_genai fills its module at run time, where a type checker cannot see it.
# pyright: reportAttributeAccessIssue=false

from typing import Any

import runtime_ext
from tools.hosts.task import NotHereError, Task

__all__ = ["NAME", "greedy", "tokens"]

NAME = "onnxruntime-genai, with the library"


def greedy(task: Task, *, library: bool) -> list[int]:
    """Continue by onnxruntime-genai, which runs the folder of the model."""
    genai = _genai()
    config = genai.Config(str(task.model.parent))
    if library:
        config.overlay(runtime_ext.genai_overlay())
    model = genai.Model(config)
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=len(task.prompt_ids) + task.count, do_sample=False)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(list(task.prompt_ids))
    while not generator.is_done():
        generator.generate_next_token()
    return generator.get_sequence(0).tolist()[len(task.prompt_ids) :]


def tokens(task: Task) -> list[int]:
    """Return the new tokens."""
    return greedy(task, library=True)


def _genai() -> Any:
    try:
        import onnxruntime_genai
    except ImportError as error:
        raise NotHereError("pip install onnxruntime-genai") from error
    return onnxruntime_genai
