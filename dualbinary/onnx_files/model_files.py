"""Names of the files that lie beside an exported model."""

__all__ = [
    "CONFIGS",
    "EXPORT_REPORT",
    "GENAI_CONFIG",
    "GENERATION_CONFIG",
    "MODEL_CONFIG",
    "POSSIBLE_COMPANIONS",
    "TOKENIZER_CONFIG",
    "TOKENIZER_FILES",
]

GENAI_CONFIG = "genai_config.json"
MODEL_CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
EXPORT_REPORT = "export_report.json"
CONFIGS = (GENAI_CONFIG, MODEL_CONFIG, GENERATION_CONFIG, EXPORT_REPORT)
"""What every export has."""

TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)
POSSIBLE_COMPANIONS = (
    *TOKENIZER_FILES,
    TOKENIZER_CONFIG,
    *(f"{name}.{suffix}" for name in ("libdualbinary", "libdualbinary_cuda") for suffix in ("so", "dylib", "dll")),
)
"""Everything that an export may lay beside a model for its tokenizer and libraries, on any system."""
