"""Families whose linear layers have other biases than the builder concludes from config.json.

GLM, GLM 4 and Seed-OSS: attention_bias is not for the output projection. GPT-J and CodeGen: both layers of the MLP have
one. Persimmon: every layer of a block has one.
"""

import dataclasses
from typing import Any

__all__ = ["configure"]

_BIASES: dict[str, dict[str, bool]] = {
    "codegen": {"mlp_bias": True},
    "glm": {"attn_o_bias": False},
    "glm4": {"attn_o_bias": False},
    "gptj": {"mlp_bias": True},
    "persimmon": {"attn_qkv_bias": True, "attn_o_bias": True, "mlp_bias": True},
}


def configure(builder_config: Any, config: Any) -> Any:
    """The builder's configuration with the biases that the model type has."""
    if config.model_type == "seed_oss":
        return dataclasses.replace(builder_config, attn_o_bias=config.attention_out_bias)
    return dataclasses.replace(builder_config, **_BIASES[config.model_type])
