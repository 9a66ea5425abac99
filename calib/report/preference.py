"""Preference of a model for frequent or rare tokens, before and after it was quantized, by how sure its teacher is.

DB-LLM (arXiv 2402.11960) observes that a quantized model predicts head classes more often than its teacher, and most so
where the teacher is unsure; its deviation-aware distillation is meant to undo that.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from calib.layers import full_precision
from calib.measure import PreferenceTable, frequency_classes
from calib.models.blocks import autocast
from calib.models.source import SourceModel
from calib.models.stored_checkpoint import StoredCheckpoint

__all__ = ["preference"]


@torch.no_grad()
def preference(
    source: SourceModel,
    checkpoints: dict[str, StoredCheckpoint],
    tokens: Tensor,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Hold each of `checkpoints` against its full-precision model `source` on windows `tokens` int [W, T].

    What is frequent is counted in `tokens` themselves. Returns {"tokens": W * T, "models": {name: table}}, the tables
    those of `PreferenceTable.to_dict`, names those of `checkpoints`. The model is loaded, unless it is already, and
    keeps the last checkpoint. `progress(done, total)` is told tokens. Raises InputError where a checkpoint does not
    fit the model.
    """
    model = source.model
    source.load(model, linear_dtype=dtype)
    Module.to(model, device)
    classes = frequency_classes(tokens, model.config.get_text_config().vocab_size)
    tables: dict[str, Any] = {}
    done = 0
    for name, checkpoint in checkpoints.items():
        checkpoint.apply(source)
        Module.to(model, device)
        table = PreferenceTable(classes)
        for row in tokens:
            window = row.to(device, torch.int64)
            with autocast(device, dtype):
                student = model(input_ids=window[None], use_cache=False).logits[0, :-1]
                with full_precision(model):
                    teacher = model(input_ids=window[None], use_cache=False).logits[0, :-1]
            table.add(teacher, student, window[1:])
            done += len(row)
            progress(done, len(checkpoints) * tokens.numel())
        tables[name] = table.to_dict()
    return {"tokens": tokens.numel(), "models": tables}
