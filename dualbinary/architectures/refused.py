"""Model types that the graph builder lists and builds as something else than transformers has.

Each was tried on a tiny random model (docs/log/export.md). A type that the builder learns is taken out here.
"""

from dualbinary import InputError

__all__ = ["REFUSED", "refuse_type"]

_WIDTHS = "it takes one width for the MLPs of all layers, and this type has one for each"
_DENSE_FIRST = "it gives every layer experts, and the first ones have none"

# What the builder does, after "as".
REFUSED = {
    "biogpt": "it leaves out biases and scales no embeddings",
    "ctrl": "it leaves out the biases of attention",
    "dbrx": "it does not read where this type states its experts",
    "doge": "its mask does not fit the attention operator",
    "ernie4_5_moe": _DENSE_FIRST,
    "falcon_h1": "it leaves out the state-space layers",
    "gemma3n": _WIDTHS,
    "gemma3n_text": _WIDTHS,
    "glm4_moe": _DENSE_FIRST,
    "gpt_neox_japanese": "it leaves out the bias behind the last layer's attention",
    "granitemoeshared": "it leaves out the shared experts",
    "hunyuan_v1_moe": "it does not know how wide the shared experts are",
    "jetmoe": "its attention experts write one name twice",
    "llama4_text": "it asks for norms of queries and keys that have no weights",
    "longcat_flash": "it leaves out experts",
    "minicpm3": "it has no latent attention for this type",
    "modernbert-decoder": "it asks for biases of norms that have none",
    "solar_open": "it leaves out all experts",
    "xglm": "it leaves out biases and learns positions that this type computes",
    "xlm": "it leaves out the biases of attention",
    "zamba": "it leaves out the state-space layers",
}


def refuse_type(model_type: str) -> None:
    """Raise InputError for a type of `REFUSED`."""
    reason = REFUSED.get(model_type)
    if reason is not None:
        raise InputError(f"model_type {model_type!r} cannot be exported: the graph builder gets it wrong, as {reason}")
