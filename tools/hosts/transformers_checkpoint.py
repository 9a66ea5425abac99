"""transformers on the checkpoint itself, packed: no export, no ONNX Runtime."""

from typing import Any

from tools.hosts.task import NotHereError, Task

__all__ = ["NAME", "tokens"]

NAME = "transformers, the checkpoint packed"


def tokens(task: Task) -> list[int]:
    """See Host. Raises NotHereError where the source is no checkpoint, and so has other weights than the export."""
    import torch
    from transformers import AutoModelForCausalLM

    import calib  # noqa: F401  # registers the method
    from dualbinary.checkpoint import read_quantization_config

    if read_quantization_config(task.source) is None:
        raise NotHereError(f"{task.source} is in full precision; give the checkpoint that was exported")
    model: Any = AutoModelForCausalLM.from_pretrained(task.source, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    ids = torch.tensor([task.prompt_ids])
    with torch.no_grad():
        found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=task.count, do_sample=False)
    return found[0, len(task.prompt_ids) :].tolist()
