"""The windows of a run, from text, from sequences that the model writes, or from both."""

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calib.config import CalibConfig, DataConfig
from calib.data.generate import count_windows, load_windows
from calib.data.windows import load_tokenizer, pack_windows, separator_token, start_token, started, tokenize
from dualbinary import InputError
from dualbinary.files.documents import read_documents

__all__ = ["MAX_TOKENS", "check_sources", "collect", "first_windows", "generated_count", "with_known_start"]

MAX_TOKENS = 64_000_000  # of text that is read; a run uses a hundredth of it, and 250 MB of memory hold it


def collect(
    config: DataConfig, directory: Path, count: int, vocabulary: int, seed: int, generate: Callable[[int], Tensor]
) -> tuple[Tensor, dict[str, Any]]:
    """Windows int64 [<= count, T] for the model in `directory`, in the order in which they are used, and their origin.

    Text is read up to MAX_TOKENS and sampled. With generated sequences as well, a share `config.text_share` is text
    and the rest generated, mixed by `seed`. Nothing comes twice: where a source has less than its share, that is what
    there is. `generate(n)` writes n sequences, int [n, T]. The origin is a JSON object:

        asked, length                           windows wanted, tokens in each
        text_windows, generated_windows         windows of either source
        files                                   of text: name, bytes, documents and tokens read
        cut                                     whether text was left at MAX_TOKENS
        generated_file                          where generated sequences were read, or null

    Raises InputError where there is no source, or one that cannot be used.
    """
    check_sources(config)
    generates = bool(config.generate or config.generated)
    share = config.text_share if config.text and generates else float(bool(config.text))
    from_text = round(count * share)
    files: dict[Path, dict[str, Any]] = {}
    parts: list[Tensor] = []
    if config.text:
        parts.append(_text(config, directory, from_text, vocabulary, seed, files))
        if generates and from_text and not len(parts[0]):
            raise InputError(
                f"the text is 0 windows of {config.length} tokens, expected 1 or more; give more --text, or "
                "shorter windows with --length, or no text to learn from what the model writes alone"
            )
    if generates:
        parts.append(_generated(config, count - from_text, vocabulary, seed, generate))
    windows = torch.cat(parts)
    if len(parts) > 1:
        windows = windows[torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))]
    origin = {
        "asked": count,
        "length": config.length,
        "text_windows": len(parts[0]) if config.text else 0,
        "generated_windows": len(parts[-1]) if generates else 0,
        "files": list(files.values()),
        "cut": sum(entry["tokens"] for entry in files.values()) >= MAX_TOKENS,
        "generated_file": config.generated and str(config.generated),
    }
    return windows, origin


def check_sources(config: DataConfig) -> None:
    """Raise InputError where there is nothing to take windows from, or generated sequences from two places."""
    if not config.text and not config.generate and not config.generated:
        raise InputError("no data to calibrate with; give --text FILES, or --generate N to let the model write its own")
    if config.generate and config.generated:
        raise InputError("--generate and --generated: expected one of them, sequences written now or before")


def with_known_start(config: CalibConfig, directory: Path, vocabulary: int) -> CalibConfig:
    """`config` with a `data.start_token` that is true or false. Raises InputError where it asks for what is not there.

    Without a tokenizer, which generated sequences do not need, there is no such token.
    """
    if not config.needs_tokens:
        return config.with_start_token(False)
    try:
        start = start_token(load_tokenizer(directory), vocabulary)
    except InputError:
        start = None
    if config.data.start_token and start is None:
        raise InputError(
            f"--start-token: the tokenizer of {directory} puts no token before a text, as <bos>; leave it out"
        )
    return config.with_start_token(start is not None)


def generated_count(config: DataConfig) -> int:
    """Sequences that the model writes or has written. Raises InputError where their file cannot be used."""
    return config.generate if config.generated is None else count_windows(Path(config.generated))


def first_windows(directory: Path, files: tuple[str, ...], count: int, length: int, vocabulary: int) -> Tensor:
    """The first `count` windows of a text to measure on, int32 [count, length], read as it is, file after file.

    Each begins with the token that the tokenizer puts before a text, where it puts one; no other special tokens, and
    no more is read than that takes. Raises InputError where the text is shorter.
    """
    if count < 1 or length < 2:
        raise InputError(f"--windows {count} --length {length}: expected at least 1 window of 2 tokens")
    start = start_token(load_tokenizer(directory), vocabulary)
    cut = length if start is None else length - 1
    wanted = count * cut
    documents = tokenize(directory, read_documents(files, None), vocabulary=vocabulary, limit=wanted)
    tokens = torch.cat([torch.empty(0, dtype=torch.int32), *map(torch.from_numpy, documents)])
    if len(tokens) < wanted:
        raise InputError(
            f"the text has {len(tokens)} tokens, expected {count} windows of {cut}; lower --windows or give more"
        )
    return started(tokens.view(count, cut), start)


def _text(
    config: DataConfig, directory: Path, count: int, vocabulary: int, seed: int, files: dict[Path, dict[str, Any]]
) -> Tensor:
    """Windows of text, int64 [<= count, T]; `files` is told what was read."""
    source = read_documents(config.text, config.separator)
    ahead: deque[Path] = deque()  # files of the documents that the tokenizer has taken and not given back yet

    def documents() -> Iterator[tuple[Path, str]]:
        for path, text in source:
            ahead.append(path)
            yield path, text

    tokens = []
    for ids in tokenize(directory, documents(), vocabulary=vocabulary, limit=MAX_TOKENS):
        path = ahead.popleft()
        if path not in files:
            files[path] = {"name": str(path), "bytes": path.stat().st_size, "documents": 0, "tokens": 0}
        files[path]["documents"] += 1
        files[path]["tokens"] += len(ids)
        tokens.append(ids)
    tokenizer = load_tokenizer(directory)
    start = start_token(tokenizer, vocabulary) if config.start_token else None
    return pack_windows(tokens, config.length, separator_token(tokenizer, vocabulary), count, seed, start)


def _generated(config: DataConfig, count: int, vocabulary: int, seed: int, generate: Callable[[int], Tensor]) -> Tensor:
    """Windows that the model wrote, int64 [<= count, T]."""
    if config.generated is None:
        count = min(count, config.generate)
        return generate(count).long() if count else torch.empty(0, config.length, dtype=torch.int64)
    stored = load_windows(Path(config.generated), config.length, vocabulary)
    order = torch.randperm(len(stored), generator=torch.Generator().manual_seed(seed))
    return stored[order[:count]].long()
