"""Documents of text files, plain, compressed and of tables: dualbinary.files.documents. And files of prompts."""

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Iterator

from dualbinary import InputError
from dualbinary.files.documents import pieces, read_documents
from runtime_ext.generate_all import read_prompts
from tools.fuzz.readers.sections import files_of, in_directory, joined

NAME = "text"

_PLAIN = b"Hello.\n\nThe sun is hot.\n"
_LINES = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in ("one", "two\u00e9"))


def seeds() -> Iterator[bytes]:
    """A file of each kind."""
    yield joined({"a.txt": _PLAIN, "a.jsonl": _LINES})
    yield joined({"a.jsonl.gz": gzip.compress(_LINES, mtime=0)})
    yield joined({"a.txt.xz": lzma.compress(_PLAIN)})
    yield joined({"a.md.bz2": bz2.compress(_PLAIN)})
    yield joined({"prompts": b'One\n"two\\nlines"\n'})
    import pyarrow
    from pyarrow import parquet

    table = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": ["one", None, "two"]}), table)
    yield joined({"a.parquet": table.getvalue()})


def try_input(data: bytes) -> None:
    """Read all documents in pieces, and the prompts."""
    files = files_of(data)
    if "parquet" in "".join(files) and not files.get("a.parquet", b"PAR1").startswith(b"PAR1"):
        return
    with in_directory(files) as directory:
        for name in files:
            try:
                if name == "prompts":
                    read_prompts(directory / name)
                    continue
                documents = read_documents((str(directory / name),), "\n\n")
                for _ in pieces(document for _, document in documents):
                    pass
            except InputError:
                pass
