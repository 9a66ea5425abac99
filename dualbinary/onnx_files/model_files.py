"""Names of the files that lie beside an exported model."""

__all__ = [
    "CHAT_TEMPLATE",
    "CONFIGS",
    "EXPORT_REPORT",
    "GENAI_CONFIG",
    "GENERATION_CONFIG",
    "MODEL_CONFIG",
    "POSSIBLE_COMPANIONS",
    "TOKENIZER",
    "TOKENIZER_CONFIG",
    "TOKENIZER_FILES",
]

GENAI_CONFIG = "genai_config.json"
MODEL_CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
EXPORT_REPORT = "export_report.json"
CONFIGS = (GENAI_CONFIG, MODEL_CONFIG, GENERATION_CONFIG, EXPORT_REPORT)
"""What every export has."""

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
POSSIBLE_COMPANIONS = (
    *TOKENIZER_FILES,
    TOKENIZER_CONFIG,
    *(f"{name}.{suffix}" for name in ("libdualbinary", "libdualbinary_cuda") for suffix in ("so", "dylib", "dll")),
)
"""Everything that an export may lay beside a model for its tokenizer and libraries, on any system."""
