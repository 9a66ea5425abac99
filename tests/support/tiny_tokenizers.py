"""A tokenizer of printable ASCII that fits the tiny models' vocabulary and puts a BOS in front, as Llama's does."""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

PAD, BOS, END = "<pad>", "<s>", "</s>"  # ids 0, 1 and 2, as the configurations of the tiny models have them
_BLANK = "Ġ"  # a blank in the byte-level alphabet


def write_tokenizer(directory: Path, bos: bool = True, **settings: object) -> Tokenizer:
    """Write tokenizer.json and tokenizer_config.json, with `settings` in the latter; return the tokenizer."""
    letters = [chr(code) for code in range(ord("!"), 127)]
    vocabulary = {token: index for index, token in enumerate([PAD, BOS, END, _BLANK, *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (PAD, BOS, END)])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    tokenizer.save(str(directory / "tokenizer.json"))
    values = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": END, "pad_token": PAD}
    (directory / "tokenizer_config.json").write_text(json.dumps(values | {"add_bos_token": bos} | settings))
    return tokenizer
