"""What transformers makes of a model directory: its configuration, and the model with all its weights."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from dualbinary.checkpoint import CONFIG_FILE, quantized_by
from dualbinary.checkpoint.text_part import TEXT_NAMES, has_text_part, read_config
from dualbinary.files.json_objects import read_json_object

__all__ = ["load_model", "model_config"]


def model_config(directory: Path) -> PretrainedConfig:
    """The configuration of the language model in `directory`. Raises whatever transformers finds wrong with it."""
    if has_text_part(read_json_object(directory / CONFIG_FILE)):
        config = AutoConfig.for_model(**read_config(directory))
        config.name_or_path = str(directory)  # where the tokenizer is
        return config
    return AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)


def load_model(directory: Path) -> Any:
    """The causal language model of `directory` in float32; what another tool quantized is loaded by its own package.

    Raises whatever transformers or that package finds wrong with it.
    """
    options: dict[str, Any] = {}
    if has_text_part(read_json_object(directory / CONFIG_FILE)) and quantized_by(directory) is None:
        options = {"config": model_config(directory), "key_mapping": TEXT_NAMES}
    return AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, local_files_only=True, trust_remote_code=False, **options
    )
