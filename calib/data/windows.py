"""From documents to windows: the model's own tokenizer, and pieces of equal length from all documents joined."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from dualbinary import InputError
from dualbinary.files.documents import pieces

__all__ = ["load_tokenizer", "ordinary_tokens", "pack_windows", "separator_token", "start_token", "started", "tokenize"]

Tokens = npt.NDArray[np.int32]

# A tokenizer keeps more than a hundred bytes for each token of what it is given at a time, and gives each core whole
# texts: so long documents go to it in pieces, and pieces in batches.
BATCH_CHARACTERS = 1 << 22
BATCH_PIECES = 1 << 10

PROBE = "a"  # a text that any tokenizer has tokens for


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model directory. Raises InputError where there is none that transformers can use."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a bare one, even, from what others wrote into the files
        reason = " ".join(str(error).split())
        raise InputError(
            f"{directory}: has no tokenizer that transformers can load; expected tokenizer.json ({reason})"
        ) from None
    # Without files some classes of transformers come up with nothing but special tokens.
    if len(tokenizer.get_vocab()) <= len(tokenizer.added_tokens_decoder):
        raise InputError(f"{directory}: has no tokenizer; expected tokenizer.json, as it was published with the model")
    return tokenizer


def ordinary_tokens(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> list[int]:
    """The ids below `vocabulary` that stand for text: in order, without special and added tokens."""
    special = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    return sorted(id_ for id_ in set(tokenizer.get_vocab().values()) - special if id_ < vocabulary)


def separator_token(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> int | None:
    """The id that ends a document; None where the tokenizer has none, or none below `vocabulary`."""
    end = tokenizer.eos_token_id
    return end if isinstance(end, int) and end < vocabulary else None


def start_token(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> int | None:
    """The id that the tokenizer puts before every text, as <bos>; None where it puts none, or none below `vocabulary`.

    A model that has seen it first in whatever it was trained on makes little of a text without it.
    """
    plain = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    first, *rest = tokenizer(PROBE)["input_ids"] or [None]
    return first if first is not None and rest[: len(plain)] == plain and first < vocabulary else None


def tokenize(
    directory: Path, documents: Iterable[tuple[Path, str]], *, vocabulary: int | None = None, limit: int | None = None
) -> Iterator[Tokens]:
    """The tokens of each of `documents`, int32 [n], by the tokenizer of the model `directory`; no special ones added.

    Reads lazily, one batch ahead of the consumer, and ends once there are `limit` tokens, where the last document is
    cut. Raises InputError where there is no tokenizer, or where it has more tokens than `vocabulary`.
    """
    tokenizer = load_tokenizer(directory)
    parts: list[Tokens] = []
    left = limit
    for batch in _batches(pieces(text for _, text in documents)):
        texts = [piece for piece, _ in batch]
        encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        for ids, (_, ends) in zip(encoded["input_ids"], batch, strict=True):
            if vocabulary is not None and max(ids, default=0) >= vocabulary:
                raise InputError(
                    f"{directory}: its tokenizer makes token {max(ids)}, its model knows 0 to {vocabulary - 1}; "
                    "expected the tokenizer that the model was trained with"
                )
            parts.append(np.array(ids, np.int32)[:left])
            if left is not None:
                left -= len(parts[-1])
            if ends or left == 0:
                yield np.concatenate(parts)
                parts = []
            if left == 0:
                return


def pack_windows(
    documents: Iterable[Tokens],
    length: int,
    separator_id: int | None,
    limit: int,
    seed: int,
    start_id: int | None = None,
) -> Tensor:
    """Windows int64 [<= limit, length]: `documents` joined, cut, and a random sample in random order, by `seed`.

    `separator_id` stands between documents, `start_id` at the beginning of every window. What is left at the end,
    shorter than a window, is dropped. No window comes twice; where there are fewer than `limit`, all of them come.
    """
    parts: list[Tokens] = []
    for ids in documents:
        if len(ids) and parts and separator_id is not None:
            parts.append(np.array([separator_id], np.int32))
        if len(ids):
            parts.append(ids)
    stream = np.concatenate([*parts, np.zeros(0, np.int32)])
    cut = length if start_id is None else length - 1
    count = len(stream) // cut
    windows = started(torch.from_numpy(stream[: count * cut].reshape(count, cut)), start_id)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return windows[order[:limit]].long()


def started(windows: Tensor, start_id: int | None) -> Tensor:
    """Windows [W, T] with `start_id` before each, [W, T + 1]; as they are without one."""
    return windows if start_id is None else torch.nn.functional.pad(windows, (1, 0), value=start_id)


def _batches(all_pieces: Iterable[tuple[str, bool]]) -> Iterator[list[tuple[str, bool]]]:
    batch: list[tuple[str, bool]] = []
    characters = 0
    for piece in all_pieces:
        batch.append(piece)
        characters += len(piece[0])
        if characters >= BATCH_CHARACTERS or len(batch) == BATCH_PIECES:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
