"""Documents of files, windows of documents, and the mixture of text and generated sequences."""

import bz2
import gzip
import json
import lzma
from itertools import pairwise
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pyarrow
import pytest
import torch
from hypothesis import example, given
from pyarrow import parquet
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

from calib.config import DataConfig
from calib.data import collect as collecting
from calib.data import windows
from calib.data.collect import collect
from calib.data.windows import load_tokenizer, ordinary_tokens, pack_windows, separator_token, tokenize
from dualbinary import InputError
from dualbinary.files import documents as reading
from dualbinary.files.documents import expand, read_documents
from examples import smollm2

BYTES = 256
END = BYTES  # the id of the one special token
VOCABULARY = BYTES + 1


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """A directory with a tokenizer of bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: index for index, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<end> $A", special_tokens=[("<end>", END)])
    result = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", model_max_length=8).save_pretrained(result)
    return result


def texts(*patterns: Path | str, separator: str | None = None) -> list[str]:
    return [text for _, text in read_documents(tuple(map(str, patterns)), separator)]


def write_lines(path: Path, *values: object) -> Path:
    path.write_text("\n".join(json.dumps(value) for value in values), encoding="utf-8")
    return path


# Documents


def test_every_kind_of_file_gives_its_documents(tmp_path):
    text = "Zwölf\n\nBoxkämpfer"
    for ending, opener in {"": open, ".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}.items():
        with opener(tmp_path / f"plain.txt{ending}", "wt", encoding="utf-8") as file:
            file.write(text)
        with opener(tmp_path / f"lines.JSONL{ending}", "wt", encoding="utf-8") as file:
            file.write(json.dumps({"text": text, "id": 1}) + '\n\n{"text": ""}\n' + json.dumps({"text": "two"}))
        assert texts(tmp_path / f"plain.txt{ending}") == [text]
        assert texts(tmp_path / f"plain.txt{ending}", separator="\n\n") == ["Zwölf", "Boxkämpfer"]
        assert texts(tmp_path / f"lines.JSONL{ending}", separator="\n\n") == [text, "two"]
    (tmp_path / "LOUD.TXT.GZ").write_bytes(gzip.compress(b"loud"))
    assert texts(tmp_path / "LOUD.TXT.GZ") == ["loud"]
    rows = [f"row {index}" for index in range(1000)]
    for kind in (pyarrow.string(), pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())):
        table = pyarrow.table({"id": range(1002), "text": pyarrow.array([*rows, None, " "]).cast(kind)})
        parquet.write_table(table, tmp_path / "table.parquet", row_group_size=300)
        assert texts(tmp_path / "table.parquet") == rows


@pytest.mark.parametrize("ending", ["text", "md", "raw", "tokens"])
def test_other_endings_of_plain_text(tmp_path, ending):
    file = tmp_path / f"a.{ending}"
    file.write_bytes(b"\xef\xbb\xbfone\r\ntwo")  # a byte order mark and line ends as Windows writes them
    assert texts(file) == ["one\ntwo"]


def test_white_space_alone_is_no_document(tmp_path):
    (tmp_path / "a.txt").write_text("--a-- \n --b--")
    assert texts(tmp_path / "a.txt", separator="--") == ["a", "b"]


def test_patterns_name_files_in_order_and_none_twice(tmp_path):
    for name in ("b.txt", "a.txt", "deep/er/c.txt", "[x].txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "folder.txt").mkdir()
    found = expand((f"{tmp_path}/b.txt", f"{tmp_path}/*.txt", f"{tmp_path}/**/*.txt"))
    assert [str(file.relative_to(tmp_path)) for file in found] == ["b.txt", "[x].txt", "a.txt", "deep/er/c.txt"]
    assert texts(tmp_path / "[x].txt") == ["[x].txt"]


def test_names_that_cannot_be_used_are_refused_at_once(tmp_path):
    (tmp_path / "a.pdf").write_text("a")
    (tmp_path / "a.parquet.gz").write_text("a")
    for pattern, message in {
        "missing.txt": "no such file",
        "none*.txt": "no such file",
        "": "a directory",
        "a.pdf": r"expected \.txt.*\.jsonl.*\.gz.*\.parquet",
        "a.parquet.gz": "of no known kind",
    }.items():
        with pytest.raises(InputError, match=message):
            read_documents((str(tmp_path / pattern),), None)
    with pytest.raises(InputError, match="separator"):
        read_documents((), "")


@pytest.mark.parametrize(
    "line",
    ["{", "[1]", '"text"', '{"txt": "a"}', '{"text": 1}', '{"text": null}', '{"text": "\\ud800"}', "[" * 100_000],
)
def test_a_wrong_line_is_named(tmp_path, line):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "fine"}\n\n' + line)
    with pytest.raises(InputError, match=r"a\.jsonl:3: "):
        texts(file)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"caf\xe9", "not UTF-8"),
        ("a.jsonl", b'{"text": "caf\xe9"}', "not UTF-8"),
        ("a.txt.gz", gzip.compress(b"caf\xe9", mtime=0), "not UTF-8"),
        ("a.txt.gz", b"plain", "cannot be read"),
        ("a.txt.gz", gzip.compress(b"text" * 100, mtime=0)[:-9], "cannot be read"),
        ("a.txt.gz", gzip.compress(b"text", mtime=0)[:10] + b"\xff" * 20, "cannot be read"),
        ("a.txt.xz", b"plain", "cannot be read"),
        ("a.txt.bz2", bz2.compress(b"text" * 100)[:-3], "cannot be read"),
        ("a.parquet", b"plain", "not a Parquet file"),
        ("a.parquet", b"", "not a Parquet file"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: {message}"):
        texts(tmp_path / name)


def test_a_table_needs_a_column_of_strings(tmp_path):
    file = tmp_path / "a.parquet"
    for columns, message in (({"txt": ["a"]}, 'column "text", got txt'), ({"text": [1]}, "strings .* got int")):
        parquet.write_table(pyarrow.table(columns), file)
        with pytest.raises(InputError, match=message):
            texts(file)


# Tokens


def test_long_and_many_documents_come_back_in_order(directory, monkeypatch):
    monkeypatch.setattr(reading, "PIECE_CHARACTERS", 7)
    monkeypatch.setattr(windows, "BATCH_CHARACTERS", 20)
    monkeypatch.setattr(windows, "BATCH_PIECES", 3)
    given_texts = ["ä" * 30, "one\ntwo\nthree\nfour five", "x", "1234567", "\n" * 9, "", "end"]
    found = list(tokenize(directory, [(Path("f"), text) for text in given_texts]))
    tokenizer = load_tokenizer(directory)
    assert [tokenizer.decode(ids) for ids in found] == given_texts
    assert all(ids.dtype == np.int32 for ids in found)


def test_reading_stops_at_the_limit(directory, monkeypatch):
    monkeypatch.setattr(windows, "BATCH_PIECES", 2)
    read: list[int] = []

    def documents():
        for index in range(100):
            read.append(index)
            yield Path("f"), "abcd"

    assert [len(ids) for ids in tokenize(directory, documents(), limit=10)] == [4, 4, 2]
    assert len(read) < 10
    monkeypatch.setattr(reading, "PIECE_CHARACTERS", 7)
    assert [len(ids) for ids in tokenize(directory, [(Path("f"), "a" * 30)], limit=10)] == [10]


def test_long_text_brings_no_warning(directory, caplog):
    logging.enable_propagation()
    try:
        assert load_tokenizer(directory).model_max_length == 8
        assert len(next(tokenize(directory, [(Path("f"), "abcd" * 10)]))) == 40
    finally:
        logging.disable_propagation()
    assert not caplog.records


def test_special_tokens_stand_for_no_text(directory):
    tokenizer = load_tokenizer(directory)
    assert ordinary_tokens(tokenizer, VOCABULARY) == list(range(BYTES))
    assert ordinary_tokens(tokenizer, 100) == list(range(100))
    assert separator_token(tokenizer, VOCABULARY) == END
    assert separator_token(tokenizer, END) is None


def test_a_missing_tokenizer_and_one_of_another_model_are_refused(directory, tmp_path):
    with pytest.raises(InputError, match="tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(InputError, match=r"has no tokenizer; expected tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="has no tokenizer that"):
        load_tokenizer(tmp_path)
    top = max(next(tokenize(directory, [(Path("f"), "é")])))
    assert len(list(tokenize(directory, [(Path("f"), "é")], vocabulary=top + 1))) == 1
    with pytest.raises(InputError, match=f"token {top}, its model knows 0 to {top - 1}"):
        list(tokenize(directory, [(Path("f"), "é")], vocabulary=top))


@pytest.mark.real_model
def test_the_real_tokenizer_is_followed():
    directory = smollm2.prepare()
    tokenizer = load_tokenizer(directory)
    text = "The ferry left before sunrise.\n" * 9000  # more than one piece: 279,000 characters
    (ids,) = tokenize(directory, [(Path("f"), text)])
    assert ids.tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ordinary_tokens(tokenizer, len(tokenizer))) == len(tokenizer) - len(tokenizer.added_tokens_decoder)


# Windows

DOCUMENTS = st.lists(st.integers(0, 40), max_size=12)


def numbered(sizes: list[int]) -> list[np.ndarray]:
    """Documents in which every token is its own, so that a window tells where it is from."""
    ends = np.cumsum([0, *sizes])
    return [np.arange(begin, end, dtype=np.int32) for begin, end in pairwise(ends)]


@example([3, 0, 4, 0], 2, -1, 30, 0)
@given(DOCUMENTS, st.integers(1, 9), st.sampled_from([None, -1]), st.integers(0, 30), st.integers(0, 2**32 - 1))
def test_windows_are_pieces_of_the_joined_documents(sizes, length, separator, limit, seed):
    documents = numbered(sizes)
    found = pack_windows(documents, length, separator, limit, seed)
    stream: list[int] = []
    for document in documents:
        if len(document):
            stream += [separator] if stream and separator is not None else []
            stream += document.tolist()
    pieces = [tuple(stream[begin : begin + length]) for begin in range(0, len(stream), length)]
    pieces = [piece for piece in pieces if len(piece) == length]
    rows = [tuple(row) for row in found.tolist()]
    assert found.dtype == torch.int64
    assert found.shape == (min(limit, len(pieces)), length)
    assert set(rows) <= set(pieces)
    if length > 1:  # a window of one token may be a separator, and so the same as another
        assert len(set(rows)) == len(rows)
    assert torch.equal(found, pack_windows(documents, length, separator, limit, seed))


def test_the_sample_is_random_and_depends_on_the_seed():
    documents = [np.arange(1000, dtype=np.int32)]
    samples = [pack_windows(documents, 1, None, 50, seed)[:, 0] for seed in range(40)]
    assert len({tuple(sample.tolist()) for sample in samples}) == 40
    # 2,000 draws of 0 .. 999, uniform: their mean is within 4 standard deviations, 4 * 288.7 / sqrt(2000) = 26.
    assert abs(torch.cat(samples).double().mean() - 499.5) < 26
    assert all(not torch.equal(sample, sample.sort().values) for sample in samples)


# Collection


def never(count: int) -> torch.Tensor:
    raise AssertionError(f"{count} sequences asked for")


def written(count: int) -> torch.Tensor:
    """Sequences that the model "wrote": END, then the number of the sequence."""
    return torch.stack([torch.tensor([END] + [index] * 7, dtype=torch.int32) for index in range(count)])


def test_text_alone(directory, tmp_path):
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("a" * 19)
    second.write_text("b" * 20 + "--" + "c" * 3)
    config = DataConfig(text=(str(first), str(second)), separator="--", length=8)
    found, origin = collect(config, directory, 100, VOCABULARY, 3, never)
    text = load_tokenizer(directory).batch_decode(found)
    assert sorted(text) == sorted(["a" * 8, "a" * 8, "a" * 3 + "<end>" + "b" * 4, "b" * 8, "b" * 8])
    assert found.dtype == torch.int64
    assert json.loads(json.dumps(origin)) == {
        "asked": 100,
        "length": 8,
        "text_windows": 5,
        "generated_windows": 0,
        "files": [
            {"name": str(first), "bytes": 19, "documents": 1, "tokens": 19},
            {"name": str(second), "bytes": 25, "documents": 2, "tokens": 23},
        ],
        "cut": False,
        "generated_file": None,
    }
    assert len(collect(config, directory, 2, VOCABULARY, 3, never)[0]) == 2
    with pytest.raises(InputError, match="its model knows 0 to 49"):
        collect(config, directory, 2, 50, 3, never)


def test_text_is_cut_at_the_limit(directory, tmp_path, monkeypatch):
    monkeypatch.setattr(collecting, "MAX_TOKENS", 30)
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name * 20)
    config = DataConfig(text=(f"{tmp_path}/*.txt",), length=8)
    found, origin = collect(config, directory, 100, VOCABULARY, 0, never)
    assert len(found) == 3
    assert origin["cut"]
    assert [(entry["documents"], entry["tokens"]) for entry in origin["files"]] == [(1, 20), (1, 10)]


def test_generated_alone_and_no_more_than_needed(directory, tmp_path):
    found, origin = collect(DataConfig(generate=6, length=8), tmp_path, 4, VOCABULARY, 0, written)
    assert torch.equal(found, written(4).long())
    assert (origin["text_windows"], origin["generated_windows"], origin["files"]) == (0, 4, [])
    assert len(collect(DataConfig(generate=6, length=8), tmp_path, 40, VOCABULARY, 0, written)[0]) == 6


def test_stored_sequences_are_sampled(tmp_path):
    file = tmp_path / "sequences.safetensors"
    save_file({"tokens": written(9)}, file)
    config = DataConfig(generated=str(file), length=8)
    found, origin = collect(config, tmp_path, 5, VOCABULARY, 0, never)
    assert len(set(found[:, 1].tolist())) == 5
    assert origin["generated_file"] == str(file)
    other, _ = collect(config, tmp_path, 5, VOCABULARY, 1, never)
    assert not torch.equal(found, other)
    everything, _ = collect(config, tmp_path, 50, VOCABULARY, 1, never)
    assert sorted(everything[:, 1].tolist()) == list(range(9))


@pytest.mark.parametrize(
    ("share", "characters", "generate", "expected"),
    [
        (0.5, 800, 100, (10, 10)),
        (0.25, 800, 100, (5, 15)),
        (0.25, 24, 100, (3, 15)),
        (0.25, 800, 7, (5, 7)),
        (1.0, 800, 7, (20, 0)),
        (0.0, 800, 70, (0, 20)),
    ],
)
def test_a_mixture_has_the_share_that_was_asked_for(directory, tmp_path, share, characters, generate, expected):
    (tmp_path / "a.txt").write_text("a" * characters)
    config = DataConfig(text=(f"{tmp_path}/a.txt",), generate=generate, text_share=share, length=8)
    found, origin = collect(config, directory, 20, VOCABULARY, 5, written)
    is_generated = found[:, 0] == END
    assert (int((~is_generated).sum()), int(is_generated.sum())) == expected
    assert (origin["text_windows"], origin["generated_windows"]) == expected
    again, _ = collect(config, directory, 20, VOCABULARY, 5, written)
    assert torch.equal(found, again)
    if min(expected) > 4:  # mixed: neither source comes first as a whole
        assert is_generated.sort().values.ne(is_generated).any()
        assert is_generated.sort(descending=True).values.ne(is_generated).any()


@pytest.mark.parametrize("characters", [0, 7])
def test_a_text_of_no_window_is_refused_before_the_model_writes(directory, tmp_path, characters):
    (tmp_path / "a.txt").write_text("a" * characters or " \n")
    config = DataConfig(text=(f"{tmp_path}/a.txt",), generate=20, length=8)
    with pytest.raises(InputError, match="the text is 0 windows of 8 tokens, expected 1 or more"):
        collect(config, directory, 20, VOCABULARY, 0, never)
    none = config.model_copy(update={"text_share": 0.0})
    assert len(collect(none, directory, 20, VOCABULARY, 0, written)[0]) == 20


def test_no_source_or_two_kinds_of_sequences_are_refused(tmp_path):
    with pytest.raises(InputError, match="--text FILES, or --generate N"):
        collect(DataConfig(), tmp_path, 4, VOCABULARY, 0, never)
    with pytest.raises(InputError, match="--generate and --generated"):
        collect(DataConfig(generate=4, generated="a"), tmp_path, 4, VOCABULARY, 0, never)
    with pytest.raises(InputError, match="no such file"):
        collect(DataConfig(text=("missing.txt",)), tmp_path, 4, VOCABULARY, 0, never)
