"""A tokenizer of a few words that falls back to bytes, as those of Llama 2 and Gemma do."""

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

WORDS = ("▁", "▁the", "the", "▁▁", "x", "é", "▁é🙂", "\n", "\ufffd")
BYTE = {byte: len(WORDS) + 1 + byte for byte in range(256)}  # ids
SPECIAL, ADDED = ["<s>", "</s>"], ["<tool>", "▁plus"]

BLANKS = decoders.Replace("▁", " ")
LLAMA = decoders.Sequence([BLANKS, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
GEMMA = decoders.Sequence([BLANKS, decoders.ByteFallback(), decoders.Fuse()])


def fallback_tokenizer(
    decoder: decoders.Decoder = LLAMA, kind: str = "bpe", the: int = WORDS.index("▁the") + 1
) -> Tokenizer:
    """The tokenizer, as a model of BPE ("bpe") or of Unigram; `the` is the id of "▁the"."""
    names = ["<unk>", *WORDS, *(f"<0x{byte:02X}>" for byte in range(256))]
    now = names.index("▁the")
    names[now], names[the] = names[the], names[now]
    if kind == "bpe":
        vocabulary = {name: index for index, name in enumerate(names)}
        tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    else:
        tokenizer = Tokenizer(models.Unigram([(name, -1.0) for name in names], 0, True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoder
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in ADDED])
    return tokenizer
