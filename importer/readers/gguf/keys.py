"""Metadata of a GGUF file under the names of its architecture, each value asked for by the type it must have."""

import re
from reprlib import repr as shown
from typing import Any

import numpy as np

from dualbinary import InputError
from importer.readers.gguf.container import Container
from importer.readers.hadamard import PREFIX, Declaration, Names, read_declaration

__all__ = ["Keys"]

_ARCHITECTURE = "general.architecture"
_ROTATIONS = re.compile(r"hadamard|rotation|^prism\.", re.IGNORECASE)
_ROTATED = ("llama", "qwen3", "qwen3moe", "qwen35", "qwen35moe", "qwen3next")  # that are published with folded weights
_NAMES = Names(
    re.compile(r"blk\.\d+\.(attn_(q|k|v|qkv|gate|output)|ffn_(gate|up|down)|ssm_out)\.weight|output\.weight"),
    re.compile(r"blk\.\d+\.ssm_out\.weight"),
    table="token_embd.weight",
    head="output.weight",
)
# Names of values that change what a model computes, by what published files have.
_ARITHMETIC = re.compile(
    r"scal|softcap|rope|window|expert|ssm|norm|clamp|alibi|temperature|sparsity|swiglu|lora|residual|shared|indexer"
    r"|swa|causal|pooling|token_shift|altup|predict|deepstack|classifier|posnet|convnext|wkv|kda|interval|dense|adapter"
)


class Keys:
    """The metadata of one file.

    Values of the architecture are asked for without its name: "block_count" is "llama.block_count". What nobody has
    asked for is known, so that nothing that changes the computation is dropped in silence.

    Attributes:
        architecture: what the file says it is.
    """

    def __init__(self, container: Container) -> None:
        """Raises InputError where the file names no architecture or declares a rotation that no reader knows."""
        self.container = container
        self._metadata = container.metadata
        self._read: set[str] = set()
        for key in self._metadata:
            if _ROTATIONS.search(key) and not key.startswith(PREFIX):
                raise InputError(
                    f"{container.path}: {key!r} declares a rotation that this release does not know; give the "
                    "full-precision model"
                )
        architecture = self._metadata.get(_ARCHITECTURE)
        if not isinstance(architecture, str) or not architecture:
            raise InputError(f"{container.path}: {_ARCHITECTURE}: expected the name of one, got {shown(architecture)}")
        self.architecture = architecture

    def fail(self, name: str, expected: str, got: object) -> InputError:
        """The error about a value."""
        return InputError(f"{self.container.path}: {name}: expected {expected}, got {shown(got)}")

    def has(self, name: str) -> bool:
        """Whether the architecture gives a value."""
        return self._key(name) in self._metadata

    def is_list(self, name: str) -> bool:
        """Whether it gives a value for each layer."""
        return isinstance(self._metadata.get(self._key(name)), np.ndarray)

    def whole(self, name: str, default: int | None = None, least: int = 1) -> int:
        """A whole number; of an array with one for each layer, the one that all are."""
        value = self._value(name, default)
        if isinstance(value, np.ndarray) and value.size and (value == value[0]).all():
            value = value[0].item()
        if type(value) is not int or value < least:
            raise self.fail(self._key(name), f"a whole number of at least {least}", value)
        return value

    def real(self, name: str, default: float | None = None) -> float:
        """A finite number above 0."""
        value = self._value(name, default)
        if type(value) not in (int, float) or not 0 < value < float("inf"):
            raise self.fail(self._key(name), "a number above 0", value)
        return float(value)

    def layers(self, name: str, count: int) -> list[int]:
        """A whole number, or true or false, for each of `count` layers."""
        value = self._value(name, None)
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "uib" or value.shape != (count,):
            raise self.fail(self._key(name), f"{count} whole numbers, one for each layer", value)
        return value.tolist()

    def text(self, name: str, default: str) -> str:
        """A text."""
        value = self._value(name, default)
        if not isinstance(value, str):
            raise self.fail(self._key(name), "a text", value)
        return value

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise self.fail(self._key(name), "true or false", value)
        return value

    def ignore(self, *names: str) -> None:
        """Say of values that they tell nothing more."""
        self._read.update(self._key(name) for name in names)

    def token(self, name: str, count: int) -> int | None:
        """The number of a special token, such as "eos", of `count` tokens; None where there is none."""
        key = f"tokenizer.ggml.{name}_token_id"
        value = self._metadata.get(key)
        if value is None:
            return None
        if type(value) is not int or not 0 <= value < count:
            raise self.fail(key, f"a token of {count}", value)
        return value

    def rotations(self) -> Declaration | None:
        """The rotations of inputs that the file declares. Raises InputError as `read_declaration` does."""
        path, tensors = self.container.path, self.container.tensors
        if any(key.startswith(PREFIX) for key in self._metadata) and self.architecture not in _ROTATED:
            raise InputError(
                f"{path}: {PREFIX}*: expected of an architecture of {', '.join(_ROTATED)}, got {self.architecture}; "
                "give the full-precision model"
            )
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        return read_declaration(self._metadata, shapes, _NAMES, path)

    def refuse_unread(self) -> list[str]:
        """Names of values that nobody asked for. Raises InputError where one says that more is computed."""
        prefix = f"{self.architecture}."
        unread = [key for key in self._metadata if key.startswith(prefix) and key not in self._read]
        for key in unread:
            value = self._metadata[key]
            says = bool(np.any(value)) if isinstance(value, np.ndarray) else bool(value)
            if says and _ARITHMETIC.search(key.removeprefix(prefix)):
                raise InputError(
                    f"{self.container.path}: {key} = {shown(value)}: this release does not know what it means for a "
                    f"model of type {self.architecture}; give the full-precision model"
                )
        return unread

    def _key(self, name: str) -> str:
        return f"{self.architecture}.{name}"

    def _value(self, name: str, default: Any) -> Any:
        key = self._key(name)
        self._read.add(key)
        if key in self._metadata:
            return self._metadata[key]
        if default is None:
            raise InputError(f"{self.container.path}: no {key}, which says what the model is; the file is incomplete")
        return default
