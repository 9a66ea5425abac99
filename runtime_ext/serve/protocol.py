"""What a request may ask for: the fields of the OpenAI API that this server has, and one clear error for all others.

A field that this server does not have is accepted with the value that it has when it is left out, and refused with any
other, as is a field that the API does not know. A null is the same as leaving a field out. `top_k`, `min_p` and
`repetition_penalty` are extensions, named as other servers name them.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dualbinary.files.json_objects import MAX_NESTING, nests_too_deep

__all__ = ["ApiError", "ChatRequest", "CompletionRequest", "Request", "parse", "read_body"]

_KINDS = ("str", "constrained-str")
_SHOWN = 80  # characters of a value in a message
MAX_STOPS, MAX_STOP_LENGTH = 4, 256
# Fields that are not supported, with the values that ask for nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "web_search_options": (),
    "store": (False,),
    "echo": (False,),
    "suffix": ("",),
}
# Fields that say who asks, and change nothing in the answer.
_IGNORED = ("user", "metadata", "safety_identifier", "service_tier", "prompt_cache_key", "prompt_cache_retention")


class ApiError(Exception):
    """An error in the API's form: HTTP status, message, and which parameter it is about."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
        self.content = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class _Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)


class StreamOptions(_Checked):
    """`include_usage` adds a last chunk that counts tokens; `include_obfuscation` is accepted and not done."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class TextPart(_Checked):
    """A part of a message's content. Images, sounds and files are refused."""

    type: Literal["text"]
    text: str


class Message(_Checked):
    """A message of the conversation. A developer's is a system message."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]

    @model_validator(mode="after")
    def _nothing_else(self) -> "Message":
        """What clients send back of an answer of this server is empty."""
        for name, value in (self.model_extra or {}).items():
            if value not in (None, [], {}):
                raise ValueError(f"{name} is not supported in a message; leave it out")
        return self

    def plain(self) -> dict[str, str]:
        """The message as chat templates know it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class Request(_Checked):
    """What chat and text completions have in common."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)] | list[str] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0, lt=2**63)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    max_tokens: Annotated[int, Field(ge=1, lt=2**63)] | None = None

    @model_validator(mode="after")
    def _stops(self) -> "Request":
        if isinstance(self.stop, list):
            if len(self.stop) > MAX_STOPS:
                raise ValueError(f"stop: expected at most {MAX_STOPS} strings, got {len(self.stop)}")
            if not all(1 <= len(each) <= MAX_STOP_LENGTH for each in self.stop):
                raise ValueError(f"stop: expected strings of 1 to {MAX_STOP_LENGTH} characters")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only with stream")
        return self

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def limit(self) -> int | None:
        """Tokens of the answer, at most; None: as many as there is room for."""
        return self.max_tokens

    @property
    def scored(self) -> int | None:
        """How many of the most likely tokens are asked for at each place; None: no probabilities at all."""
        raise NotImplementedError

    @property
    def include_usage(self) -> bool:
        """Say whether a stream ends with a chunk that counts tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(Request):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**63)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @model_validator(mode="after")
    def _tops(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: only with logprobs")
        return self

    @property
    def limit(self) -> int | None:
        """Under either of its names."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def scored(self) -> int | None:
        """As in Request."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(Request):
    """The body of POST /v1/completions. A prompt is a text or token ids; several are refused, but for a list of one."""

    prompt: (
        str
        | list[Annotated[int, Field(ge=-(2**63), lt=2**63)]]
        | Annotated[list[str], Field(min_length=1, max_length=1)]
    )
    max_tokens: Annotated[int, Field(ge=1, lt=2**63)] | None = 16
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None

    @property
    def text_or_tokens(self) -> str | list[int]:
        """The one prompt."""
        first = self.prompt[0] if self.prompt and isinstance(self.prompt, list) else self.prompt
        return first if isinstance(first, str) else [each for each in self.prompt if isinstance(each, int)]

    @property
    def scored(self) -> int | None:
        """As in Request."""
        return self.logprobs


R = TypeVar("R", bound=Request)


def read_body(data: bytes) -> Any:
    """The JSON value of a body. Raises ApiError for what is none, for a key given twice, and for NaN and infinities.

    Of a key that is there twice a program before this server may have looked at the other value.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))
            raise ValueError(f"the key {_shown(twice)} is given twice")
        return values

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no value of JSON")

    try:
        value = json.loads(data, object_pairs_hook=once, parse_constant=refuse)
        if nests_too_deep(value):
            raise ValueError(f"objects and lists more than {MAX_NESTING} deep in one another")
        return value
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}") from None


def parse(kind: type[R], body: Any) -> R:
    """The request in a JSON value. Raises ApiError, with the parameter that is wrong, for what it may not be."""
    if not isinstance(body, dict):
        raise ApiError(400, f"expected a JSON object, got {type(body).__name__}")
    given = {name: value for name, value in body.items() if value is not None and name not in _IGNORED}
    for name, neutral in _NEUTRAL.items():
        if name in given and (value := given.pop(name)) not in neutral:
            only = f" but for {json.dumps(neutral[0])}" if neutral else ""
            message = f"{name}: not supported by this server{only}, got {_shown(value)}; leave it out"
            raise ApiError(400, message, param=name, code="unsupported_parameter")
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise _api_error(error) from None


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value, default=repr)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _api_error(error: ValidationError) -> ApiError:
    """The first thing that is wrong, in one line; of the kinds that a value may be, the one that it is closest to."""
    errors = error.errors(include_url=False, include_context=False)
    same = [each for each in errors if each["loc"][:1] == errors[0]["loc"][:1]]
    first = max(same, key=lambda each: (not each["type"].endswith("_type"), len(each["loc"])))
    # Names of kinds that pydantic adds to the place are no names of fields.
    place = ".".join(str(part) for part in first["loc"] if str(part) not in _KINDS and "[" not in str(part))
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "not a parameter of this server; leave it out"
    elif first["type"] == "missing":
        message = "missing"
    elif first["type"] != "value_error":
        message += f", got {_shown(first['input'])}"
    if not place:  # said by the check of several fields, which names the field
        place, _, _ = message.partition(":")
        return ApiError(400, message, param=place)
    return ApiError(400, f"{place}: {message}", param=place)
