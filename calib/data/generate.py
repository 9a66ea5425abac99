"""Text that the full-precision model writes itself, for calibration without data (LLM-QAT, arXiv 2305.17888).

A sequence begins with a random token, drawn evenly from the ordinary tokens of the vocabulary, without special ones,
and none a second time before all have begun one; before it stands the token that the tokenizer puts before a text
(<bos>), where that is asked for. So rare tokens come up as well. The next three to five tokens are the likeliest, which
makes a sensible beginning of it; all others are drawn from the whole distribution at temperature 1, for variety. QBB
(NeurIPS 2024) says of its own text only that it begins with a random token.

An end-of-text token ends nothing: windows have equal lengths, and a model continues with a new document after it, as
it did in its training.

Sequences are written in batches, each with its own random generator and kept in a file until all are done. So a
run that is killed resumes with the batch it was in, to the same result.
"""

import hashlib
import inspect
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from calib.data.roomy_cache import make_room
from calib.data.windows import load_tokenizer, ordinary_tokens, start_token, started
from calib.models.blocks import autocast
from dualbinary import DualBinaryError, InputError
from dualbinary.files.atomic import move_into_place, writing

__all__ = [
    "PARTS_SUFFIX",
    "cache_room",
    "check_writable",
    "count_windows",
    "generate_to",
    "key_width",
    "load_windows",
    "sequences_at_once",
]

PARTS_SUFFIX = ".parts"  # of the directory of finished batches
TOKENS = "tokens"  # the one tensor of a file
DIGEST = "digest"  # of the tokens, a key of that metadata
METADATA = "json"  # the one key of its metadata: safetensors writes several in any order
STORED_DTYPE = "I32"  # of it, in the words of safetensors
DRAWN = 2  # the version of how tokens are drawn: with another, the same seed says other sequences
MIN_GREEDY, MAX_GREEDY = 3, 5
MAX_SEQUENCES = 64  # of a batch
CACHE_BYTES = 2 << 30  # at least, for a batch's keys and values

Progress = Callable[[int, int], None]


def generate_to(
    path: Path,
    model: PreTrainedModel,
    count: int,
    length: int,
    *,
    seed: int,
    dtype: torch.dtype,
    start: bool = False,
    progress: Progress = lambda *_: None,
) -> Tensor:
    """Let `model` write `count` sequences of `length` tokens, int32 [count, length], to `path` and return them.

    With `start` each begins with the token that its tokenizer puts before a text. `model` is loaded, works on the
    device where it is, and stays in evaluation mode; matrix products are in `dtype`.
    Same arguments, same sequences (on one kind of machine): a file that is there already is read, one that other
    arguments made is an InputError. PATH.parts holds what is done so far. `progress(done, total)` is told tokens.
    Raises InputError where the model cannot write that, DualBinaryError where its logits are not numbers.
    """
    directory = path.with_name(path.name + PARTS_SUFFIX)
    start_id = _start_id(model) if start else None
    description = _describe(model, seed, count, length, dtype, start_id)
    if path.exists():
        tokens, found = _read(path)
        if found != description:
            raise InputError(f"{path}: holds sequences of another run; remove it, or read them with --generated")
        shutil.rmtree(directory, ignore_errors=True)  # what a run that was killed at its very end did not get to
        return tokens
    check_writable(model, length)
    model.eval()
    place = model.device
    generator = torch.Generator().manual_seed(seed)
    first = _sweep(_starts(model), count, generator)
    greedy = torch.randint(MIN_GREEDY, MAX_GREEDY + 1, (count,), generator=generator)
    directory.mkdir(parents=True, exist_ok=True)
    parts: list[Tensor] = []
    for index, part in enumerate(torch.arange(count).split(_batch_size(model, length))):
        file = directory / f"{index:04d}.safetensors"
        tokens = _finished(file, description, (len(part), length))
        done = sum(map(Tensor.numel, parts))
        if tokens is None:
            random = torch.Generator(place).manual_seed(seed * 1_000_003 + index)
            tell = partial(_tell, progress, done, len(part), count * length)
            with autocast(place.type, dtype):
                prefix = started(first[part, None], start_id).to(place)
                tokens = _write(model, prefix, greedy[part].to(place), length, random, tell)
            _save(file, tokens, description, file.with_name(file.name + ".new"))
        parts.append(tokens)
        progress(done + tokens.numel(), count * length)
    tokens = torch.cat(parts)
    _save(path, tokens, description, directory / path.name)  # where a killed run may leave what it had written
    shutil.rmtree(directory)
    return tokens


def check_writable(model: PreTrainedModel, length: int) -> None:
    """Raise InputError where sequences would be longer than those that `model` was made for."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and length > limit:
        raise InputError(
            f"--length {length}: the model was made for {limit} tokens or fewer; shorten windows, or let it "
            "write none with --text and --generate 0"
        )


def count_windows(path: Path) -> int:
    """The number of sequences in a file that `generate_to` wrote. Raises InputError for anything else."""
    return len(_read(path)[0])


def load_windows(path: Path, length: int, vocabulary: int) -> Tensor:
    """The sequences of a file that `generate_to` wrote, int32 [count, length].

    Raises InputError for anything else, for another length, and for tokens that are not below `vocabulary`.
    """
    tokens, _ = _read(path)
    if tokens.shape[1] != length:
        raise InputError(
            f"{path}: sequences of {tokens.shape[1]} tokens, expected {length}; set --length {tokens.shape[1]}"
        )
    lowest, highest = (int(bound) for bound in tokens.aminmax())
    if lowest < 0 or highest >= vocabulary:
        wrong = lowest if lowest < 0 else highest
        raise InputError(f"{path}: token {wrong}, expected 0 to {vocabulary - 1}; did another model write it?")
    return tokens


def _describe(
    model: PreTrainedModel, seed: int, count: int, length: int, dtype: torch.dtype, start_id: int | None
) -> str:
    """Everything that the sequences of a file depend on, as JSON; of the weights, the first of each tensor."""
    weights = [parameter[(0,) * parameter.dim()].item() for parameter in model.parameters()]
    return json.dumps(
        {
            "model": _origin(model).name,
            "weights": hashlib.sha256(json.dumps(weights).encode()).hexdigest(),
            "seed": seed,
            "count": count,
            "length": length,
            "drawn": DRAWN,
            "dtype": str(dtype).removeprefix("torch."),
            **({} if start_id is None else {"start": start_id}),
        }
    )


def _origin(model: PreTrainedModel) -> Path:
    """The directory that the model came from, or the name of its kind where it was made from nothing."""
    return Path(model.config.name_or_path or str(model.config.model_type))


def _start_id(model: PreTrainedModel) -> int:
    """The token that its tokenizer puts before a text. Raises InputError where there is none."""
    found = start_token(load_tokenizer(_origin(model)), model.config.get_text_config().vocab_size)
    if found is None:
        raise InputError(f"{_origin(model)}: its tokenizer puts no token before a text")
    return found


def _starts(model: PreTrainedModel) -> Tensor:
    """Ids that a sequence may begin with, [n]. Without a tokenizer all but those that config.json names."""
    config = model.config.get_text_config()
    if _origin(model).is_dir():
        try:
            return torch.tensor(ordinary_tokens(load_tokenizer(_origin(model)), config.vocab_size))
        except InputError:
            pass
    named = (config.bos_token_id, config.eos_token_id, config.pad_token_id)
    return torch.tensor([id_ for id_ in range(config.vocab_size) if id_ not in named])


def _sweep(ids: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` of `ids`, in one random order after another."""
    rounds = [ids[torch.randperm(len(ids), generator=generator)] for _ in range(-(-count // len(ids)))]
    return torch.cat([*rounds, ids[:0]])[:count]


def _batch_size(model: PreTrainedModel, length: int) -> int:
    """Sequences in a batch, from model and length alone: what is drawn must not depend on the machine's memory."""
    config = model.config.get_text_config()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return sequences_at_once(parameters, config.num_hidden_layers, key_width(model), length)


def key_width(model: PreTrainedModel) -> int:
    """Numbers in the keys of a token and a block."""
    config = model.config.get_text_config()
    queries = getattr(config, "num_attention_heads", None) or 1
    heads = getattr(config, "num_key_value_heads", None) or queries
    return heads * (getattr(config, "head_dim", None) or config.hidden_size // queries)


def cache_room(parameters: int) -> int:
    """Bytes for a batch's keys and values in float32: as many as the weights take, or CACHE_BYTES."""
    return max(CACHE_BYTES, parameters * torch.float32.itemsize)


def sequences_at_once(parameters: int, blocks: int, keys: int, length: int) -> int:
    """Sequences of `length` tokens in a batch, where `keys` numbers are the keys of a token and a block."""
    return min(max(1, cache_room(parameters) // (2 * blocks * keys * length * torch.float32.itemsize)), MAX_SEQUENCES)


def _tell(progress: Progress, done: int, sequences: int, total: int, position: int) -> None:
    progress(done + sequences * position, total)


@torch.no_grad()
def _write(
    model: PreTrainedModel,
    prefix: Tensor,
    greedy: Tensor,
    length: int,
    random: torch.Generator,
    tell: Callable[[int], None],
) -> Tensor:
    """One batch, int32 [batch, length] on the CPU: `prefix` [batch, n], `greedy` [batch] likeliest ones, then drawn."""
    given = prefix.shape[1]
    tokens = torch.empty(len(prefix), length, dtype=torch.int64, device=prefix.device)
    tokens[:, :given] = prefix
    only_last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    cache = None
    for position in range(1, length):
        output = model(tokens[:, position - 1 : position], past_key_values=cache, use_cache=True, **only_last)
        if cache is None:
            cache = output.past_key_values
            if cache is None:
                raise InputError("the model keeps no keys and values to write with; give --text and --generate 0")
            place = prefix.device.type
            make_room(cache, length, torch.get_autocast_dtype(place) if torch.is_autocast_enabled(place) else None)
        logits = output.logits[:, -1].float()
        chances = logits.softmax(-1)
        if chances.isnan().any():
            raise DualBinaryError(f"the model's logits are not numbers at token {position} of what it writes")
        if position >= given:
            drawn = _drawn(chances, random)
            tokens[:, position] = torch.where(position < given + greedy, logits.argmax(-1), drawn)
        tell(position + 1)
    return tokens.int().cpu()


def _drawn(chances: Tensor, random: torch.Generator) -> Tensor:
    """A token of each row of `chances` [n, V]: [n].

    By one random number for a row; torch.multinomial makes one for each word, a third of the time of a small model.
    """
    wide = torch.float32 if chances.device.type == "mps" else torch.float64  # which has no more
    sums = chances.cumsum(-1, dtype=wide)
    place = torch.rand(len(sums), 1, dtype=wide, device=sums.device, generator=random) * sums[:, -1:]
    return torch.searchsorted(sums, place, right=True)[:, 0].clamp_max(sums.shape[1] - 1)


def _finished(file: Path, description: str, shape: tuple[int, int]) -> Tensor | None:
    """The batch in `file` if an earlier run with the same description and batches of the same size left it whole."""
    try:
        tokens, found = _read(file)
    except InputError:
        return None
    return tokens if found == description and tokens.shape == shape else None


def _read(path: Path) -> tuple[Tensor, str]:
    """Tokens int32 [n, T], n and T above 0, and the description of a file. Raises InputError for anything else."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            stored = file.get_slice(TOKENS)
            dtype, shape = stored.get_dtype(), stored.get_shape()
            if dtype != STORED_DTYPE or len(shape) != 2 or 0 in shape:
                raise InputError(f"{path}: {TOKENS} is {dtype} {shape}, expected {STORED_DTYPE} [sequences, length]")
            tokens = file.get_tensor(TOKENS).clone()
            return tokens, _checked(path, tokens, (file.metadata() or {}).get(METADATA, ""))
    except FileNotFoundError:
        raise InputError(f"{path}: missing") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{path}: not a file of generated sequences ({error})") from None


def _save(path: Path, tokens: Tensor, description: str, aside: Path) -> None:
    """Write a file that is there whole or not at all, whenever the process ends."""
    stored = json.dumps({**json.loads(description), DIGEST: _digest(tokens)})
    with writing(aside, remove=True), writing(path):
        save_file({TOKENS: tokens.contiguous()}, aside, {METADATA: stored})
        move_into_place(aside, path)


def _digest(tokens: Tensor) -> str:
    return hashlib.sha256(tokens.contiguous().numpy().tobytes()).hexdigest()


def _checked(path: Path, tokens: Tensor, stored: str) -> str:
    """The description of a file, without the digest of its tokens. Raises InputError where the tokens are others."""
    try:
        description = json.loads(stored)
    except ValueError:
        return stored
    digest = description.pop(DIGEST, None) if isinstance(description, dict) else None
    if digest is not None and digest != _digest(tokens):
        raise InputError(f"{path}: damaged, its tokens are not those that were written; remove it")
    return json.dumps(description)
