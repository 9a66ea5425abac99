"""Text that transformers encodes otherwise than tokenizer.json says, by which runners encode.

transformers 5 builds the tokenizer of a named class (LlamaTokenizer, Qwen2Tokenizer, GPT2Tokenizer, ...) from the
vocabulary of tokenizer.json and its own rules, whatever rules the file has. Some texts show whether the two agree.
"""

from pathlib import Path

from dualbinary.files.model_files import TOKENIZER
from exporter.source.stored_tokenizer import stored_tokenizer

__all__ = ["transformers_notes"]

_TEXTS = ("The quick brown fox.", " the", "a  b\n\n c", "12345 x=1", "Don't STOP", "caf\u00e9 \u4f60\u597d", "\tx")


def transformers_notes(directory: Path) -> list[str]:
    """A sentence where transformers and tokenizer.json in `directory` give a text other ids; none where they agree."""
    path = directory / TOKENIZER
    if not path.is_file():
        return []
    from transformers import AutoTokenizer

    try:
        stored = stored_tokenizer(path)
        loaded = AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
        pairs = [(text, stored.encode(text).ids, loaded(text)["input_ids"]) for text in _TEXTS]
    except Exception:  # what cannot be read is said by who has to read it
        return []
    text = next((text for text, ids, wanted in pairs if ids != wanted), None)
    if text is None:
        return []
    return [
        f"transformers' {type(loaded).__name__} encodes text otherwise than {TOKENIZER}, by which runners encode, for "
        f"example {text!r}; where transformers is right for this model, save its tokenizer: AutoTokenizer"
        f".from_pretrained(DIR).backend_tokenizer.save('{TOKENIZER}')"
    ]
