"""Names of the files of a model directory, of those of an exported model, and in it, where others need to know them."""

from pathlib import Path

from dualbinary.errors import InputError
from dualbinary.files.systems import LIBRARY, SYSTEMS

__all__ = [
    "ADDED_TOKENS",
    "CHAT_TEMPLATE",
    "CHAT_TEMPLATES",
    "CHAT_TEMPLATE_JSON",
    "CONFIGS",
    "CONFIG_FILE",
    "EXPORT_REPORT",
    "GENAI_CONFIG",
    "GENERATION_CONFIG",
    "LONG_ROPE_AFTER",
    "OPTIONAL_FILES",
    "REPORT_VERSION",
    "SAME_BITS_TOKENS",
    "SPECIAL_TOKENS_MAP",
    "TOKENIZER",
    "TOKENIZER_CONFIG",
    "TOKENIZER_FILES",
    "VERIFY_LOGITS",
    "VERIFY_TOKENS",
    "refuse_export_folder",
]

CONFIG_FILE = "config.json"
GENAI_CONFIG = "genai_config.json"
GENERATION_CONFIG = "generation_config.json"
EXPORT_REPORT = "export_report.json"
REPORT_VERSION = 1  # of its keys
CONFIGS = (GENAI_CONFIG, CONFIG_FILE, GENERATION_CONFIG, EXPORT_REPORT)
"""Files that every export has."""

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"
CHAT_TEMPLATE = "chat_template.jinja"
CHAT_TEMPLATE_JSON = "chat_template.json"
CHAT_TEMPLATES = "additional_chat_templates"
"""A folder of further templates; the one called default answers plain messages, before CHAT_TEMPLATE."""

TOKENIZER_FILES = (
    TOKENIZER,
    SPECIAL_TOKENS_MAP,
    ADDED_TOKENS,
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    CHAT_TEMPLATE,
    CHAT_TEMPLATE_JSON,
)
OPTIONAL_FILES = (
    *TOKENIZER_FILES,
    TOKENIZER_CONFIG,
    *(f"{name}.{suffix}" for name in (LIBRARY, f"{LIBRARY}_cuda") for suffix in ("so", "dylib", "dll")),
    *(system.file for system in SYSTEMS),
)
"""Files that an export may add for a tokenizer and for libraries, on any system."""

LONG_ROPE_AFTER = "dualbinary.long_rope_after"
"""Key of an ONNX file's metadata, only in models with LongRoPE: sequences of more tokens take the long factors."""

VERIFY_LOGITS = "verify_logits"
"""A decoder's second output [batch, n, V]: logits of each of n new tokens where those are few, else of the last."""

VERIFY_TOKENS = "dualbinary.verify_tokens"
"""Key of an ONNX file's metadata: new tokens whose logits one run gives, so that guesses of them can be checked."""

SAME_BITS_TOKENS = "dualbinary.same_bits_tokens"
"""Another key: new tokens up to which each has the logits of a run of its own, to the bit, by the kernels for CPUs."""


def refuse_export_folder(directory: Path) -> None:
    """Raise InputError, with the file to give, for the folder of an exported model where its file is meant.

    Such a folder has a config.json as well, and would be taken for a model directory without weights.
    """
    files = sorted(directory.glob("*.onnx"))
    if files and not any(any(directory.glob(weights)) for weights in ("*.safetensors", "*.bin")):
        raise InputError(f"{directory}: the folder of an exported model; give its file, {files[0]}")
