"""Tiny models whose weights planes fit exactly, and their logits in transformers and in the exported file.

All that differs between the two is what the graph computes.
"""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from exporter.options import ExportOptions
from exporter.pipeline import export
from tests.support.sessions import open_session, step
from tests.support.tiny_models import settle

TOKENS, _DECODED = 64, 4  # longer than every window and than the switch of LongRoPE; the last ones through the cache
_IDS = np.random.default_rng(1).integers(3, 64, (1, TOKENS))
# Largest relative error of the logits: that of activations in 15 bits, 1e-4 per product, which the large weights of
# these models amplify. Values that move logits move them by far more.
SAME, MOVED = 1e-2, 3e-2


def configuration(model_type: str, values: dict[str, Any]) -> Any:
    return transformers.AutoConfig.for_model(model_type, **copy.deepcopy(values))


def exact_model(config: Any) -> Any:
    """A random model with weights k/24 for k from -8 to 7, the even levels of four planes."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randint(-8, 8, parameter.shape) / 24)
            else:
                parameter.add_(0.1 * torch.randn(parameter.shape))
        settle(model)
    return model


@torch.inference_mode()
def torch_logits(model: Any) -> np.ndarray:
    """Logits [tokens, V] of transformers."""
    return model(torch.from_numpy(_IDS), use_cache=False).logits[0].numpy()


def loaded(directory: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def exported_logits(directory: Path, out: Path) -> np.ndarray:
    """Logits [tokens, V] of the exported file: the prompt at once, then token by token."""
    form: dict[str, Any] = {"planes": 4, "levels": "even", "zero": 8.0}
    export(directory, out, ExportOptions(**form, embedding_bits=32, logits="all", fallback="none"), force=True)
    session, past, parts, begin = open_session(str(out)), None, [], 0
    for end in range(TOKENS - _DECODED, TOKENS + 1):
        rows, past = step(session, _IDS[:, begin:end], np.ones((1, end), np.int64), past)
        parts.append(rows[0])
        begin = end
    return np.concatenate(parts)


def relative_error(got: np.ndarray, expected: np.ndarray, experts: bool = False) -> float:
    """Largest error over positions, relative to the largest logit.

    A rounding error may send a token to another expert, which is no fault; so of a mixture of experts the median.
    """
    rows = np.abs(got - expected).max(axis=1)
    return float((np.median(rows) if experts else rows.max()) / np.abs(expected).max())
