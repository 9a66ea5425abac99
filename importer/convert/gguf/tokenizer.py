"""The tokenizer of a model as metadata of a GGUF file: from tokenizer.json, the inverse of the reader's conversion.

llama.cpp names the way in which text is split before merges, and has code for each name. A way whose name is not known
here is refused: another one would make other tokens of the same text.

    model "gpt2"     byte-level merges, with the name of the split
    model "llama"    merges of SentencePiece, which llama.cpp knows by the score of their outcome
"""

import json
from pathlib import Path
from typing import Any, NoReturn

from tokenizers import Tokenizer

from dualbinary import InputError
from dualbinary.files.json_objects import read_json_object
from dualbinary.files.model_files import (
    CHAT_TEMPLATE,
    CHAT_TEMPLATES,
    CONFIG_FILE,
    GENERATION_CONFIG,
    SPECIAL_TOKENS_MAP,
    TOKENIZER,
    TOKENIZER_CONFIG,
)
from importer.readers.gguf.tokenizer import WHOLE_WORDS

__all__ = ["tokenizer_metadata"]

_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6  # llama.cpp's types of tokens
_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
# llama.cpp's names of which transformers has the regex. That of llama-bpe and dbrx is the same; WHOLE_WORDS is not.
_SPLITS = ("llama-bpe", "dbrx", "qwen2", "qwen35", "tekken", "gpt-4o")
_BLANK = "▁"


def tokenizer_metadata(directory: Path, vocabulary: int) -> tuple[dict[str, Any], list[str]]:
    """Keys of the tokenizer in a model's directory, for `vocabulary` embeddings, and what a user should know.

    Raises InputError where it is no BPE, splits text in a way without a known name, or has more tokens than embeddings.
    """
    path = directory / TOKENIZER
    if not path.is_file():
        raise InputError(f"{path}: missing; a GGUF file holds its tokenizer; put tokenizer.json beside the model")
    values = read_json_object(path)
    settings = _settings(directory)
    model = values.get("model") or {}
    if model.get("type") != "BPE":
        _refuse(path, f"a tokenizer of type {model.get('type')!r}; expected BPE")
    tokens, kinds = _tokens(path, values, vocabulary)
    keys: dict[str, Any]
    if model.get("byte_fallback"):
        keys = _sentencepiece(path, values, tokens, kinds)
    else:
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        keys = {"model": "gpt2", "pre": _split_name(path, values), "tokens": tokens, "token_type": kinds}
        keys["merges"] = merges
    keys |= _special_tokens(directory, settings, values, tokens)
    keys |= _added_at_ends(path, settings, keys)
    metadata = {f"tokenizer.ggml.{name}": value for name, value in keys.items()}
    template, notes = _template(directory, settings)
    if template is not None:
        metadata["tokenizer.chat_template"] = template
    return metadata, notes


def _refuse(path: Path, what: str) -> NoReturn:
    raise InputError(f"{path}: {what}; a directory as OUT is written as GPTQ, with the tokenizer as it is")


def _settings(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in (SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG):
        if (directory / name).is_file():
            found |= read_json_object(directory / name)
    return found


def _tokens(path: Path, values: dict[str, Any], vocabulary: int) -> tuple[list[str], list[int]]:
    """The tokens by number, and their types; numbers without a token are filled as llama.cpp's converter does it."""
    by_number = {number: token for token, number in values["model"]["vocab"].items()}
    added = {token["id"]: token for token in values.get("added_tokens") or []}
    by_number |= {number: token["content"] for number, token in added.items()}
    if max(by_number, default=0) >= vocabulary:
        _refuse(path, f"token {max(by_number)} is beyond the {vocabulary} embeddings of the model")
    tokens, kinds = [], []
    for number in range(vocabulary):
        filler = f"[PAD{number}]"
        token = by_number.get(number, filler)
        tokens.append(token)
        if number in added:
            kinds.append(_CONTROL if added[number]["special"] else _USER)
        else:
            kinds.append(_UNUSED if token == filler else _NORMAL)
    return tokens, kinds


def _steps(part: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer."""
    if part is None:
        return []
    return list(part[key]) if part["type"] == "Sequence" else [part]


def _split_name(path: Path, values: dict[str, Any]) -> str:
    """llama.cpp's name for how a byte-level tokenizer splits a text."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    normal = [step["type"] for step in _steps(values.get("normalizer"), "normalizers")]
    if normal not in ([], ["NFC"]):
        _refuse(path, f"normalizes text by {', '.join(normal)}, which no known name of a split says")
    steps = _steps(values.get("pre_tokenizer"), "pretokenizers")
    last = steps.pop() if steps else {}
    if last.get("type") == "ByteLevel" and not last.get("add_prefix_space"):
        if last.get("use_regex", True):
            if not steps:
                return "gpt-2"
            if [step["type"] for step in steps] == ["Digits"] and steps[0].get("individual_digits"):
                return "smollm"
        elif len(steps) == 1 and steps[0]["type"] == "Split" and steps[0].get("behavior") == "Isolated":
            expression = (steps[0].get("pattern") or {}).get("Regex")
            names = [name for name in _SPLITS if GGUF_PRE_TOKENIZER_SPLITS.get(name) == expression]
            if names and not steps[0].get("invert"):
                whole = bool(values["model"].get("ignore_merges"))
                return next((name for name in names if (name in WHOLE_WORDS) == whole), names[0])
    shown = json.dumps(values.get("pre_tokenizer"), ensure_ascii=False)
    known = ", ".join(("gpt-2", "smollm", *_SPLITS))
    _refuse(path, f"splits text in a way that has no known name ({known}): {shown[:120]}")


def _sentencepiece(path: Path, values: dict[str, Any], tokens: list[str], kinds: list[int]) -> dict[str, Any]:
    """Keys of pieces with scores: the earlier a merge, the higher the score of what it makes."""
    normal = _steps(values.get("normalizer"), "normalizers")
    before = [step for step in _steps(values.get("pre_tokenizer"), "pretokenizers") if step["type"] == "Metaspace"]
    known = {"Prepend", "Replace"}
    if not {step["type"] for step in normal} <= known or not (before or any(s["type"] == "Replace" for s in normal)):
        _refuse(path, f"normalizes text by {[step['type'] for step in normal]}; expected blanks as {_BLANK!r}")
    prefix = any(step["type"] == "Prepend" for step in normal)
    prefix = prefix or any(step.get("prepend_scheme", "always") != "never" for step in before)
    made = (merge.split(" ") if isinstance(merge, str) else merge for merge in values["model"]["merges"])
    ranks: dict[str, int] = {}
    for rank, parts in enumerate(made):
        ranks.setdefault("".join(parts), rank)
    scores = [-float(ranks.get(token, len(ranks) + number)) for number, token in enumerate(tokens)]
    for number, token in enumerate(tokens):
        if kinds[number] == _NORMAL and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            kinds[number] = _BYTE
        elif kinds[number] == _CONTROL and token == values["model"].get("unk_token"):
            kinds[number] = _UNKNOWN
        elif kinds[number] == _USER:  # found in the text itself, where blanks are blanks
            tokens[number] = token.replace(_BLANK, " ")
    keys = {"model": "llama", "pre": "default", "tokens": tokens, "scores": scores, "token_type": kinds}
    return keys | {"add_space_prefix": prefix}


def _special_tokens(
    directory: Path, settings: dict[str, Any], values: dict[str, Any], tokens: list[str]
) -> dict[str, int]:
    """Numbers of the special tokens, and of others that end a text: the ends of turns of generation_config.json."""
    numbers = {token: number for number, token in enumerate(tokens)}
    keys: dict[str, int] = {}
    for name, key in _SPECIAL.items():
        token = settings.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str) and token in numbers:
            keys[f"{key}_token_id"] = numbers[token]
    ends: list[int] = []
    for name in (GENERATION_CONFIG, CONFIG_FILE):
        value = read_json_object(directory / name).get("eos_token_id") if (directory / name).is_file() else None
        ends = ends or [end for end in (value if isinstance(value, list) else [value]) if type(end) is int]
    if ends and "eos_token_id" not in keys:
        keys["eos_token_id"] = ends[0]
    others = [end for end in ends if end != keys.get("eos_token_id") and end < len(tokens)]
    keys.update(zip(("eot_token_id", "eom_token_id"), others, strict=False))
    return keys


def _added_at_ends(path: Path, settings: dict[str, Any], keys: dict[str, Any]) -> dict[str, bool]:
    """Whether a text gets a token in front, and one at its end."""
    tokenizer = Tokenizer.from_file(str(path))
    ids = tokenizer.encode("a").ids
    first, last = keys.get("bos_token_id"), keys.get("eos_token_id")
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    begins = len(ids) > len(plain) and ids[0] == first
    ends = len(ids) > len(plain) and ids[-1] == last
    return {
        "add_bos_token": bool(settings.get("add_bos_token", begins)),
        "add_eos_token": bool(settings.get("add_eos_token", ends)),
    }


def _template(directory: Path, settings: dict[str, Any]) -> tuple[str | None, list[str]]:
    """The chat template, and a note where there are others."""
    folder = directory / CHAT_TEMPLATES
    others = sorted(path.stem for path in folder.glob("*.jinja")) if folder.is_dir() else []
    template: Any = settings.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        others += sorted(name for name in named if isinstance(name, str))
        template = named.get("default")
    for path in (folder / "default.jinja", directory / CHAT_TEMPLATE):
        if path.is_file():
            template = path.read_text(encoding="utf-8")
            break
    left = [name for name in dict.fromkeys(others) if name != "default"]
    notes = [f"chat templates beside the default one are left out: {', '.join(left)}"] if left else []
    return (template if isinstance(template, str) else None), notes
