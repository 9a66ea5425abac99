"""DualBinaryMlp and DualBinaryAttention, naive: the definition of "correct" for their kernels and functions.

Everything is float64, with the weights of products as matrices; nothing is rounded to the type of X, so that a caller
can measure against it. What an implementation rounds: activations of products, as their accuracy_level says; keys and
values, to the type of the cache. `op.toml` has the formulas.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["AttentionForm", "attention", "int8_rows", "mlp", "rms_norm"]

Floats = npt.NDArray[np.floating]
Result = npt.NDArray[np.float64]

_LEVELS = 127
"""The largest number of an int8 cache."""


def rms_norm(x: Floats, weight: Floats | None, epsilon: float) -> Result:
    """The norm over the last dimension: weight * x / sqrt(mean of x^2 + epsilon); x itself without a weight."""
    x = np.asarray(x, np.float64)
    if weight is None:
        return x
    return np.asarray(weight, np.float64) * x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + epsilon)


def _erf(x: Result) -> Result:
    """The error function by its Taylor series, and 1 beyond 6; exact to 1e-14."""
    z = np.clip(x, -6, 6)
    term = total = z.copy()
    for n in range(1, 200):
        term = -term * z * z / n
        total = total + term / (2 * n + 1)
    return 2 / np.sqrt(np.pi) * total


def _activated(activation: int, x: Result) -> Result:
    if activation == 0:
        return x / (1 + np.exp(-x))
    if activation == 1:
        return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    if activation == 2:
        return x / 2 * (1 + _erf(x / np.sqrt(2)))
    return np.maximum(x, 0) ** 2


def mlp(
    x: Floats,
    gate_up: Floats,
    down: Floats,
    *,
    activation: int = 0,
    epsilon: float = 1e-6,
    norm_weight: Floats | None = None,
    gate_up_bias: Floats | None = None,
    down_bias: Floats | None = None,
    post_norm_weight: Floats | None = None,
) -> Result:
    """Return Y [.., H] for X [.., H], gate_up [2 I, H] with the rows of gate first, and down [H, I]."""
    hidden = rms_norm(x, norm_weight, epsilon) @ np.asarray(gate_up, np.float64).T
    if gate_up_bias is not None:
        hidden = hidden + gate_up_bias
    gate, up = np.split(hidden, 2, axis=-1)
    result = (_activated(activation, gate) * up) @ np.asarray(down, np.float64).T
    if down_bias is not None:
        result = result + down_bias
    return np.asarray(x, np.float64) + rms_norm(result, post_norm_weight, epsilon)


@dataclass(frozen=True)
class AttentionForm:
    """Attributes of a DualBinaryAttention node, without those of its products."""

    num_heads: int
    kv_num_heads: int
    head_size: int
    scale: float
    softcap: float = 0.0
    local_window_size: int = 0
    rotary_interleaved: int = 0
    epsilon: float = 1e-6


def int8_rows(values: Floats) -> npt.NDArray[np.int8]:
    """Keys or values [.., D] as an int8 cache has them, [.., D + 4]: numbers, then a float32 factor, low byte first.

    A row whose factor would be below the normal numbers of float32 is zeros. One that holds NaN or infinity has numbers
    0 and the factor NaN: all of it is NaN when it is read.
    """
    values = np.asarray(values, np.float32)
    largest = np.abs(values).max(axis=-1, keepdims=True)
    finite = np.isfinite(largest)  # false for NaN too, which max() keeps
    factor = largest / np.float32(_LEVELS)
    usual = finite & (factor >= np.finfo(np.float32).tiny)
    inverse = np.divide(np.float32(_LEVELS), largest, out=np.zeros_like(largest), where=usual)
    numbers = np.rint(np.where(usual, values, 0) * inverse).astype(np.int8)
    factor = np.where(usual, factor, np.where(finite, np.float32(0), np.float32(np.nan))).astype("<f4")
    return np.concatenate([numbers, np.ascontiguousarray(factor).view(np.int8)], axis=-1)


def _floats(rows: npt.NDArray[np.generic], head_size: int) -> Result:
    """What rows of a cache stand for, [.., D]."""
    if rows.dtype != np.int8:
        return rows.astype(np.float64)
    factor = np.ascontiguousarray(rows[..., head_size:]).view("<f4")
    return rows[..., :head_size].astype(np.float64) * factor


def attention(
    x: Floats,
    past_key: npt.NDArray[np.generic],
    past_value: npt.NDArray[np.generic],
    last_keys: npt.NDArray[np.int32],
    longest: int,
    form: AttentionForm,
    *,
    tables: tuple[Floats, Floats] | None = None,
    norm_weight: Floats | None = None,
    qkv: Floats | None = None,
    qkv_bias: Floats | None = None,
    q_norm_weight: Floats | None = None,
    k_norm_weight: Floats | None = None,
    o: Floats | None = None,
    o_bias: Floats | None = None,
    post_norm_weight: Floats | None = None,
) -> tuple[Result, npt.NDArray[np.generic], npt.NDArray[np.generic]]:
    """Return Y [B, S, H], present_key and present_value [B, g, T', E] for X [B, S, H] and a past [B, g, T, E].

    `tables` are cos and sin [positions, R/2]; qkv is [(h + 2 g) D, H], o is [H, h D]. Without both X is query, key and
    value, and Y is [B, S, h D]. Places of the present that no token has are zeros.
    """
    h, g, D = form.num_heads, form.kv_num_heads, form.head_size
    B, S = x.shape[:2]
    joined = rms_norm(x, norm_weight, form.epsilon)
    if qkv is not None:
        joined = joined @ np.asarray(qkv, np.float64).T + (0 if qkv_bias is None else qkv_bias)
    heads = joined.reshape(B, S, h + 2 * g, D)
    query = rms_norm(heads[:, :, :h], q_norm_weight, form.epsilon)
    key = rms_norm(heads[:, :, h : h + g], k_norm_weight, form.epsilon)
    before = np.zeros(B, np.int64) if longest == S else np.asarray(last_keys, np.int64) + 1 - S
    if tables is not None:
        places = before[:, None] + np.arange(S)
        query, key = (_rotated(each, places, tables, form.rotary_interleaved) for each in (query, key))
    room = max(past_key.shape[2], longest)
    present_key = _present(past_key, key, before, room)
    present_value = _present(past_value, heads[:, :, h + g :], before, room)
    context = np.zeros((B, S, h * D))
    for b in range(B):
        keys, values = _floats(present_key[b], D), _floats(present_value[b], D)
        for s in range(S):
            place = int(before[b]) + s
            first = max(0, place - form.local_window_size + 1) if form.local_window_size else 0
            context[b, s] = _attended(query[b, s], keys[:, first : place + 1], values[:, first : place + 1], form)
    if o is None:
        return context, present_key, present_value
    result = context @ np.asarray(o, np.float64).T + (0 if o_bias is None else o_bias)
    y = np.asarray(x, np.float64) + rms_norm(result, post_norm_weight, form.epsilon)
    return y, present_key, present_value


def _rotated(x: Result, places: npt.NDArray[np.int64], tables: tuple[Floats, Floats], interleaved: int) -> Result:
    """Heads [B, S, heads, D] of tokens at `places` [B, S]."""
    cos, sin = (np.asarray(table, np.float64)[places][:, :, None] for table in tables)  # [B, S, 1, R/2]
    half = cos.shape[-1]
    y = x.copy()
    first, second = (
        (slice(0, 2 * half, 2), slice(1, 2 * half, 2)) if interleaved else (slice(0, half), slice(half, 2 * half))
    )
    y[..., first] = x[..., first] * cos - x[..., second] * sin
    y[..., second] = x[..., second] * cos + x[..., first] * sin
    return y


def _present(
    past: npt.NDArray[np.generic], new: Result, before: npt.NDArray[np.int64], room: int
) -> npt.NDArray[np.generic]:
    """The cache [B, g, room, E] with new heads [B, S, g, D] behind the tokens before."""
    rows = int8_rows(new) if past.dtype == np.int8 else new.astype(past.dtype)
    present = np.zeros((*past.shape[:2], room, past.shape[3]), past.dtype)
    for b, length in enumerate(before):
        present[b, :, :length] = past[b, :, :length]
        present[b, :, length : length + new.shape[1]] = rows[b].swapaxes(0, 1)
    return present


def _attended(query: Result, keys: Result, values: Result, form: AttentionForm) -> Result:
    """One token: query [h, D], keys and values [g, n, D] that it sees; returns [h D]."""
    share = form.num_heads // form.kv_num_heads
    scores = form.scale * np.einsum("hd,hnd->hn", query, keys.repeat(share, axis=0))
    if form.softcap:
        scores = form.softcap * np.tanh(scores / form.softcap)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("hn,hnd->hd", weights, values.repeat(share, axis=0)).ravel()
