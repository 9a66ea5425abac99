"""Text in pieces, for tokenizers of every kind: any tokens give text, and all together that of the whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from runtime_ext.text import TextCodec
from tests.support.fallback_tokenizers import ADDED, BLANKS, BYTE, GEMMA, LLAMA, SPECIAL, WORDS, fallback_tokenizer


def level_tokenizer():
    """A token for each byte, some for several, as GPT-2 has them."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*letters, "Ġthe", "ðŁ", "ĺĤx", "Ã©", "ï¿½"]
    tokenizer = Tokenizer(models.BPE({name: index for index, name in enumerate(names)}, []))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in [*ADDED, "一\ufffd"]])
    return tokenizer


def other_tokenizer(decoder, names):
    tokenizer = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token=names[0]))
    tokenizer.decoder = decoder
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    return tokenizer


FALLBACK = ("llama", "llama unigram", "gemma")
TOKENIZERS = {
    "llama": fallback_tokenizer(LLAMA),
    "llama unigram": fallback_tokenizer(LLAMA, "unigram"),
    "gemma": fallback_tokenizer(GEMMA),
    "level": level_tokenizer(),
    "metaspace": other_tokenizer(decoders.Metaspace(), WORDS),
    "wordpiece": other_tokenizer(decoders.WordPiece(), ["[UNK]", "play", "##ing", ".", "n't", "é", "##s"]),
    "suffix": other_tokenizer(decoders.BPEDecoder(), ["<unk>", "play", "ing</w>", "a</w>", "é"]),
    "none": other_tokenizer(None, ["<unk>", "play", "é"]),
}


@pytest.fixture(scope="module")
def codecs(tmp_path_factory):
    found = {}
    for name, tokenizer in TOKENIZERS.items():
        directory = tmp_path_factory.mktemp("codec")
        tokenizer.save(str(directory / "tokenizer.json"))
        found[name] = TextCodec(directory)
    return found


SIZES = {name: tokenizer.get_vocab_size() for name, tokenizer in TOKENIZERS.items()}


def tokens(name):
    """Any ids, a few that the tokenizer does not have too, and with bytes the characters that those make."""
    parts = [st.integers(0, 8).map(lambda token: [token]), st.integers(0, SIZES[name] + 2).map(lambda token: [token])]
    if name in FALLBACK:
        parts.append(st.characters(codec="utf-8").map(lambda letter: [BYTE[byte] for byte in letter.encode()]))
    return st.lists(st.one_of(parts), max_size=8).map(lambda found: [token for part in found for token in part])


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
def test_any_tokens_give_text_that_is_that_of_all_of_them(codecs, name, data):
    codec, ids = codecs[name], data.draw(tokens(name))
    pieces, whole = list(codec.stream(ids)), TOKENIZERS[name].decode(ids)
    # A decoder that falls back to bytes gives U+FFFD for good ones beside a wrong one.
    if name not in FALLBACK or whole.count("\ufffd") == ids.count(WORDS.index("\ufffd") + 1):
        assert "".join(pieces) == whole
    assert all(pieces)


def assert_bytes(codec, ids, after=()):
    """The bytes of the tokens, each before it is taken, are those of the text."""
    pieces, data, text = codec.pieces(after), b"", ""
    for token in ids:
        if codec.decode([token, token]):  # special ones have bytes, but are no text
            data += pieces.next_text(token)[1]
        text += pieces(token)
    assert data.decode(errors="replace") == text + pieces.end()


@pytest.mark.parametrize("name", ["llama", "gemma", "level", "metaspace", "wordpiece", "suffix"])
@given(data=st.data())
def test_the_bytes_of_tokens_are_those_of_the_text(codecs, name, data):
    assert_bytes(codecs[name], data.draw(tokens(name)), data.draw(tokens(name)))


def test_what_was_sent_stays_where_a_wrong_byte_follows(codecs):
    codec, x = codecs["llama"], 5
    ids = [BYTE[0x0A], BYTE[0xE4], x, BYTE[0xF0], BYTE[0x9F], BYTE[0x0A], BYTE[0x80]]
    pieces = codec.pieces()
    assert [pieces(token) for token in ids] == ["\n", "", "\ufffdx", "", "", "\ufffd\n", "\ufffd"]
    assert pieces.end() == ""
    assert codec.decode(ids) == "\n\ufffdx\ufffd\n\ufffd"
    assert TOKENIZERS["llama"].decode(ids) == "\ufffd\ufffdx" + 4 * "\ufffd"
    assert list(codec.stream([x, BYTE[0xF0], BYTE[0x9F]])) == ["x", "\ufffd"]


def test_wrong_bytes_do_not_hold_a_text_back(codecs):
    assert list(codecs["llama"].stream([BYTE[0x80]] * 5)) == ["\ufffd"] * 5
    stray = codecs["level"]
    (token,) = [number for number in range(256) if stray.token_text(number)[1] == b"\x80"]
    assert list(stray.stream([token] * 5)) == ["\ufffd"] * 5


def test_a_decoder_that_fails_on_its_own_tokens_ends_nothing(tmp_path, capfd):
    """Strip of one blank at each end of a text that is one blank panics."""
    decoder = decoders.Sequence([BLANKS, decoders.Fuse(), decoders.Strip(" ", 1, 1)])
    fallback_tokenizer(decoder).save(str(tmp_path / "tokenizer.json"))
    codec = TextCodec(tmp_path)
    assert list(codec.stream([1, 5, 1, 5])) == ["x", " x"]
    assert codec.decode([1]) == ""
    assert codec.decode([]) == ""
    capfd.readouterr()  # the library writes what happened


def test_a_word_keeps_its_blank_where_it_continues_a_text(codecs):
    word = dict(zip(WORDS, range(1, len(WORDS) + 1), strict=True))
    start = [number for number in range(300) if codecs["llama"].token_text(number)[0] == "<s>"]
    for name in ("llama", "llama unigram"):
        codec = codecs[name]
        first, later = codec.pieces(), codec.pieces([word["x"], *start])
        for token, alone, after in [
            (word["▁the"], "the", " the"),
            (word["the"], "the", "the"),
            (word["▁"], "", " "),
            (BYTE[0x20], "", " "),
            (BYTE[0x41], "A", "A"),
            (start[0], "<s>", "<s>"),
        ]:
            assert first.next_text(token) == codec.token_text(token) == (alone, alone.encode())
            assert later.next_text(token) == (after, after.encode())
        assert later.next_text(BYTE[0xE4]) == codec.token_text(BYTE[0xE4]) == ("\ufffd", b"\xe4")
        assert codec.decode([word["▁the"], word["▁the"]]) == "the the"
        assert codec.decode([word["▁the"]], after=[*start, word["x"]]) == " the"
        assert "".join(codec.stream([word["▁the"]], after=start)) == "the"  # special tokens are no text to continue


def test_ids_out_of_all_ranges_are_no_text(codecs):
    for codec in codecs.values():
        assert list(codec.stream([-1, 2**32, 2**70, 10**6])) == []
        assert codec.token_text(-1) == codec.token_text(2**70) == ("", b"")
