"""Documents of text files: plain text, JSON lines and Parquet.

    .txt .text .md .raw .tokens     a file is one document, or several with a separator between
    .jsonl                          a line is a JSON object whose "text" is a document
    .parquet                        a row's "text" is a document

All but .parquet, which compresses by itself, may also end in .gz, .xz or .bz2. Text is UTF-8. Parquet takes pyarrow.

A tokenizer gets long documents in pieces (`pieces`). A cut may divide what would be one token, so all that measure on
the same text cut at the same places.
"""

import bz2
import glob
import gzip
import itertools
import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from dualbinary.errors import InputError

__all__ = ["expand", "pieces", "plain_name", "read_documents"]

KEY = "text"  # of JSON objects, and the column of Parquet files
PLAIN, LINES, TABLE = (".txt", ".text", ".md", ".raw", ".tokens"), ".jsonl", ".parquet"
OPENERS: dict[str, Callable[..., IO[Any]]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
DAMAGE = (OSError, EOFError, lzma.LZMAError, zlib.error)  # what reading a compressed file that is not one raises
ROWS = 256  # of a Parquet file in memory at a time
# A tokenizer keeps more than a hundred bytes for each token of what it is given at a time.
PIECE_CHARACTERS = 1 << 18
# Of a file of plain text, or of a row group's text, and of a line of JSON: what a compressed file says of its size is
# not to be believed, and a kilobyte can become gigabytes.
MAX_CHARACTERS, MAX_LINE = 1 << 30, 1 << 26


def read_documents(patterns: tuple[str, ...], separator: str | None) -> Iterator[tuple[Path, str]]:
    """The documents of the files that `patterns` name, in the order of `expand`, each with its file.

    `separator` is what stands between documents in a file of plain text; None: the file is one. Documents of nothing
    but white space are left out. One file of plain text, or one row group, is in memory at a time. Raises InputError:
    at once for names, on the way for what the files hold.
    """
    if separator == "":
        raise InputError("--separator: is empty; expected what stands between documents, such as '\\n\\n'")
    return _read(expand(patterns), separator)


def expand(patterns: tuple[str, ...]) -> list[Path]:
    """The files that `patterns`, paths or glob patterns (** for any depth), name: those of each in order, none twice.

    Raises InputError, naming it, for a pattern without a file or a file of no known kind.
    """
    files: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            raise InputError(f"{pattern}: a directory; expected files, as in '{path / '*.txt'}'")
        found = [path] if path.is_file() else sorted(map(Path, glob.glob(pattern, recursive=True)))
        found = [file for file in found if file.is_file()]
        if not found:
            raise InputError(f"{pattern}: no such file, and no file matches it as a pattern")
        files.update(dict.fromkeys(found))
    for file in files:
        _kind(file)
    return list(files)


def pieces(texts: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """All texts in pieces of limited length, cut after a line, each with whether its text ends with it."""
    for text in texts:
        begin = 0
        while len(text) - begin > PIECE_CHARACTERS:
            line = text.rfind("\n", begin, begin + PIECE_CHARACTERS) + 1
            end = line or begin + PIECE_CHARACTERS
            yield text[begin:end], False
            begin = end
        yield text[begin:], True


def plain_name(path: Path) -> str:
    """The name of a file of text without the endings that say its kind and compression."""
    name = path.name
    for endings in (OPENERS, (*PLAIN, LINES, TABLE)):
        name = next((name[: -len(end)] for end in endings if name.lower().endswith(end)), name)
    return name


def _kind(path: Path) -> str:
    """The ending that says what is in a file: one of PLAIN, LINES or TABLE."""
    name = path.name.lower()
    inner = Path(name).stem if Path(name).suffix in OPENERS else name
    kind = Path(inner).suffix
    if kind in (*PLAIN, LINES) or (kind == TABLE and inner == name):
        return kind
    known = ", ".join((*PLAIN, LINES))
    raise InputError(f"{path}: of no known kind; expected {known}, each also with {', '.join(OPENERS)}, or {TABLE}")


def _read(files: list[Path], separator: str | None) -> Iterator[tuple[Path, str]]:
    for path in files:
        kind = _kind(path)
        if kind == TABLE:
            documents = _table(path)
        elif kind == LINES:
            documents = _lines(path)
        else:
            documents = _plain(path, separator)
        try:
            yield from ((path, document) for document in documents if document.strip())
        except UnicodeError as error:
            raise InputError(f"{path}: not UTF-8 text ({error}); convert it first, as with iconv") from None
        except DAMAGE as error:
            raise InputError(f"{path}: cannot be read ({error})") from None


def _open(path: Path) -> IO[str]:
    opener = OPENERS.get(path.suffix.lower(), open)
    return opener(path, "rt", encoding="utf-8-sig")  # -sig: a byte order mark is no text


def _plain(path: Path, separator: str | None) -> Iterator[str]:
    with _open(path) as file:
        text = file.read(MAX_CHARACTERS + 1)
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"{path}: holds more than {MAX_CHARACTERS} characters; split it, or use lines of JSON")
    yield from [text] if separator is None else text.split(separator)


def _lines(path: Path) -> Iterator[str]:
    with _open(path) as file:
        for number in itertools.count(1):
            line = file.readline(MAX_LINE + 1)
            if not line:
                return
            if len(line) > MAX_LINE:
                raise InputError(f"{path}:{number}: expected lines of at most {MAX_LINE} characters; split the text")
            if line.strip():
                yield _document(line, f"{path}:{number}")


def _document(line: str, place: str) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not valid JSON ({error})") from None
    text = value.get(KEY) if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise InputError(f'{place}: expected an object with a string "{KEY}", got {line.strip()[:60]}')
    try:
        text.encode()
    except UnicodeError as error:  # half a surrogate pair, which JSON can write and Unicode has not
        raise InputError(f'{place}: "{KEY}" is not Unicode text ({error})') from None
    return text


def _table(path: Path) -> Iterator[str]:
    try:
        import pyarrow  # here, since few runs need it and it takes a second
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise InputError(f"{path}: Parquet files take pyarrow; pip install pyarrow") from None
    try:
        with parquet.ParquetFile(path) as file:
            if KEY not in file.schema_arrow.names:
                raise InputError(f'{path}: expected a column "{KEY}", got {", ".join(file.schema_arrow.names)}')
            for group in range(file.num_row_groups):
                column = file.metadata.row_group(group).column(file.schema_arrow.names.index(KEY))
                if column.total_uncompressed_size > MAX_CHARACTERS:
                    raise InputError(
                        f"{path}: row group {group} has {column.total_uncompressed_size} bytes of text, expected "
                        f"{MAX_CHARACTERS} at most; write it again with smaller groups"
                    )
            for batch in file.iter_batches(ROWS, columns=[KEY]):
                for row in batch.column(0).to_pylist():
                    if not isinstance(row, str | None):
                        raise InputError(f'{path}: expected strings in column "{KEY}", got {type(row).__name__}')
                    yield row or ""
    except pyarrow.ArrowException as error:
        raise InputError(f"{path}: not a Parquet file that can be read ({error})") from None
