"""The model as transformers loads it: the reference of a check."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dualbinary import DualBinaryError
from dualbinary.checkpoint import CONFIG_FILE
from dualbinary.checkpoint.text_part import TEXT_NAMES, has_text_part, read_config
from dualbinary.files.json_objects import read_json_object

__all__ = ["Reference"]

# What may differ between a directory and its dequantized copy.
_OWN = ("quantization_config", "_name_or_path", "dtype", "torch_dtype", "transformers_version")


class Reference:
    """A model directory in PyTorch, with float32 weights and the plainest attention.

    Attributes:
        config: the values of its configuration, defaults included.
        structure: these values and the shapes of its tensors.
        rows: rows of its token embedding.
    """

    def __init__(self, directory: Path, name: Path) -> None:
        """Load `directory`; messages call it `name`. Raises DualBinaryError where weights are missing."""
        import transformers

        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=torch.float32,
            attn_implementation="eager",
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **_of_text_part(directory),
        )
        model, found = loaded
        lacking = sorted([*found["missing_keys"], *(str(key) for key in found["mismatched_keys"])])
        if lacking:
            raise DualBinaryError(
                f"{name}: transformers finds no weights for {lacking[0]} and {len(lacking) - 1} more, and would draw "
                "them at random, so --check has nothing to compare with"
            )
        self._model: Any = model.eval()
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
        self.rows = model.get_input_embeddings().weight.shape[0]
        self.config: dict[str, Any] = model.config.to_dict()
        self.structure: dict[str, Any] = {f"{CONFIG_FILE}: {k}": v for k, v in self.config.items() if k not in _OWN}
        self.structure |= {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}

    def close(self) -> None:
        """Let go of the weights, before another model is loaded."""
        self._model = None

    def logits(self, ids: np.ndarray, first: int) -> np.ndarray:
        """Logits [T - first, V] of the tokens from `first` on of one sequence of T ids."""
        options = {"logits_to_keep": len(ids) - first} if self._keeps else {}
        with torch.inference_mode():
            found = self._model(torch.from_numpy(ids)[None], use_cache=False, **options).logits[0]
        return found[-(len(ids) - first) :].float().numpy()


def _of_text_part(directory: Path) -> dict[str, Any]:
    """What `from_pretrained` is told of the language model inside a model of more than text; nothing of others."""
    import transformers

    config = read_json_object(directory / CONFIG_FILE)
    if not has_text_part(config):
        return {}
    own = transformers.AutoConfig.for_model(**read_config(directory))
    return {"config": own, "key_mapping": TEXT_NAMES}
