"""Names of the files of a model directory and of those that lie beside an exported model."""

__all__ = [
    "CHAT_TEMPLATE",
    "CONFIGS",
    "CONFIG_FILE",
    "EXPORT_REPORT",
    "GENAI_CONFIG",
    "GENERATION_CONFIG",
    "OPTIONAL_FILES",
    "TOKENIZER",
    "TOKENIZER_CONFIG",
    "TOKENIZER_FILES",
]

CONFIG_FILE = "config.json"
GENAI_CONFIG = "genai_config.json"
GENERATION_CONFIG = "generation_config.json"
EXPORT_REPORT = "export_report.json"
CONFIGS = (GENAI_CONFIG, CONFIG_FILE, GENERATION_CONFIG, EXPORT_REPORT)
"""Files that every export has."""

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
TOKENIZER_FILES = (
    TOKENIZER,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    CHAT_TEMPLATE,
)
OPTIONAL_FILES = (
    *TOKENIZER_FILES,
    TOKENIZER_CONFIG,
    *(f"{name}.{suffix}" for name in ("libdualbinary", "libdualbinary_cuda") for suffix in ("so", "dylib", "dll")),
)
"""Files that an export may add for a tokenizer and for libraries, on any system."""
