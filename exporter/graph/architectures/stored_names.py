"""Names of stored tensors that the builder's modules have otherwise."""

from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["rename_stored"]


def rename_stored(module: Any, names: Mapping[str, str]) -> None:
    """Have the builder's `module` replace parts of the names that its own code gives to stored tensors."""
    preprocess = module.preprocess_weights

    def preprocess_renamed(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        renamed = {}
        for name, tensor in preprocess(stored).items():
            for old, new in names.items():
                name = name.replace(old, new)
            renamed[name] = tensor
        return renamed

    module.preprocess_weights = preprocess_renamed
