"""The routes: requests in, jobs for the engine, answers out as a whole or as server-sent events.

Every error is an object of the API's form. A client that goes away, or an answer that takes too long, cancels its job,
which frees the slot before the next run of the model.
"""

import asyncio
import contextlib
import hmac
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from dualbinary import DualBinaryError, InputError
from runtime_ext.batcher import Job
from runtime_ext.sampling import Sampler
from runtime_ext.serve.answer import Answer, Delta
from runtime_ext.serve.engine import Engine, EngineStoppedError, QueueFullError
from runtime_ext.serve.loopback import is_loopback
from runtime_ext.serve.protocol import ApiError, ChatRequest, CompletionRequest, Request, parse, read_body
from runtime_ext.serve.replies import ChatReply, Reply, TextReply, as_json
from runtime_ext.text import TextCodec

__all__ = ["Limits", "make_app"]

Log = Callable[[dict[str, Any]], None]
T = TypeVar("T")

_RETRY_AFTER = "1"  # seconds; a slot is free again after a few of them at most, on the machines that this is for
_READING_SECONDS = 30
_DISCONNECTED = "disconnected"


@dataclass(frozen=True)
class Limits:
    """What one request may take.

    Attributes:
        body: bytes of its body.
        body_seconds: until its body has arrived.
        seconds: until its answer is complete, waiting included.
        key: what it has to send as its bearer token; None: nothing.
        loopback: only requests for this very machine are answered, whatever page of a browser sends them.
    """

    body: int = 1 << 20
    body_seconds: float = 30
    seconds: float = 600
    key: str | None = None
    loopback: bool = True


def make_app(engine: Engine, codec: TextCodec, model: str, limits: Limits, log: Log = lambda entry: None) -> Starlette:
    """The ASGI application that serves `engine` as `model`. `log` gets an entry for every answer."""
    api = _Api(engine, codec, model, limits, log)
    routes = [
        Route("/health", api.health),
        Route("/ready", api.health),
        Route("/v1/models", api.models),
        Route("/v1/models/{model:path}", api.model),
        Route("/v1/chat/completions", api.chat, methods=["POST"]),
        Route("/v1/completions", api.complete, methods=["POST"]),
    ]
    handlers: Any = {ApiError: _api_error, HTTPException: _http_error, Exception: _unexpected}
    return Starlette(routes=routes, exception_handlers=handlers)


class _Api:
    def __init__(self, engine: Engine, codec: TextCodec, model: str, limits: Limits, log: Log) -> None:
        self._engine, self._codec, self._model, self._limits, self._log = engine, codec, model, limits, log
        # One text at a time: templates and tokenizers keep a core busy, and the model needs it.
        self._text_thread = ThreadPoolExecutor(1, "text")
        self._texts = 0  # that wait for it
        self._created = int(time.time())

    async def health(self, request: HttpRequest) -> Response:
        """200 while the model runs, 503 when it does not."""
        alive = self._engine.alive
        facts = {"status": "ok" if alive else "stopped", "jobs": self._engine.jobs, "slots": self._engine.decoder.slots}
        return _Json(facts, 200 if alive else 503)

    async def models(self, request: HttpRequest) -> Response:
        """The one model."""
        self._admit(request)
        return _Json({"object": "list", "data": [self._facts()]})

    async def model(self, request: HttpRequest) -> Response:
        """The facts of a model by name."""
        self._admit(request)
        self._check_model(request.path_params["model"])
        return _Json(self._facts())

    async def chat(self, request: HttpRequest) -> Response:
        """Continue a conversation."""
        asked = parse(ChatRequest, await self._body(request))
        self._check_model(asked.model)
        messages = [message.plain() for message in asked.messages]
        prompt = await self._in_text_thread(self._codec.encode_messages, messages)
        reply = ChatReply(self._model, len(prompt), asked.scored is not None, asked.include_usage)
        return await self._answer(request, asked, prompt, reply, after=())

    async def complete(self, request: HttpRequest) -> Response:
        """Continue a text."""
        asked = parse(CompletionRequest, await self._body(request))
        self._check_model(asked.model)
        prompt = asked.text_or_tokens
        if isinstance(prompt, str):
            prompt = await self._in_text_thread(self._codec.encode, prompt)
        reply = TextReply(self._model, len(prompt), asked.scored is not None, asked.include_usage)
        return await self._answer(request, asked, prompt, reply, after=prompt)

    def _facts(self) -> dict[str, Any]:
        return {"id": self._model, "object": "model", "created": self._created, "owned_by": "dualbinary"}

    def _admit(self, request: HttpRequest) -> None:
        """Raise ApiError for a request from elsewhere, or without the key."""
        try:
            host = request.url.hostname
        except ValueError:
            raise ApiError(400, "host: expected the name or the address of this server") from None
        if self._limits.loopback and not is_loopback(host or ""):
            raise ApiError(403, f"host {host}: this server answers requests for this machine alone")
        if self._limits.key is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.encode("latin-1"), self._limits.key.encode())
        if scheme.lower() != "bearer" or not right:
            raise ApiError(401, "the API key is missing or wrong", kind="authentication_error", code="invalid_api_key")

    def _check_model(self, name: str) -> None:
        if name != self._model:
            message = f"model: expected {self._model}, the one that this server has, got {name}"
            raise ApiError(404, message, param="model", code="model_not_found")

    async def _body(self, request: HttpRequest) -> Any:
        """The JSON value in a request's body."""
        self._admit(request)
        # A page of another origin cannot send this type without asking first, which is never allowed here.
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise ApiError(415, "content-type: expected application/json")
        data = bytearray()
        too_long = ApiError(413, f"the body is longer than {self._limits.body} bytes", code="request_too_large")
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                async for chunk in request.stream():
                    data += chunk
                    if len(data) > self._limits.body:
                        raise too_long
        except TimeoutError:
            raise ApiError(408, f"the body did not arrive within {self._limits.body_seconds:g} s") from None
        return read_body(bytes(data))

    async def _in_text_thread(self, encode: Callable[[Any], list[int]], text: Any) -> list[int]:
        if self._texts >= self._engine.limit:
            raise _full(f"{self._texts} requests wait for their text already, and no more are taken; try again later")
        self._texts += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._text_thread, encode, text)
        except InputError as error:
            raise ApiError(400, str(error)) from None
        finally:
            self._texts -= 1

    async def _answer(
        self, request: HttpRequest, asked: Request, prompt: list[int], reply: Reply, after: Sequence[int]
    ) -> Response:
        """The answer to `prompt`, as a text that continues that of the tokens `after`."""
        sampled = asked.temperature > 0
        sampler = Sampler(
            temperature=asked.temperature,
            top_k=asked.top_k if sampled else 0,
            top_p=asked.top_p if sampled else 1.0,
            min_p=asked.min_p if sampled else 0.0,
            repetition_penalty=asked.repetition_penalty,
            presence_penalty=asked.presence_penalty,
            frequency_penalty=asked.frequency_penalty,
            seed=None if asked.seed is None else asked.seed % 2**64,
        )
        sampler.start(prompt)
        deltas = _Deltas(time.perf_counter(), {"path": request.url.path, "prompt_tokens": len(prompt)})
        answer = Answer(self._codec, asked.stops, asked.scored, deltas.emit, after)
        limit = asked.limit or self._engine.decoder.capacity
        job = Job(prompt, limit, sampler, answer.take, answer.end)
        self._submit(job)
        answering = _Answering(self._engine, job, deltas, self._limits.seconds, self._log)
        if asked.stream:
            return _Events(answering, reply)
        try:
            found = await unless_disconnected(request.receive, answering.all())
        finally:
            answering.end()
        if found is None:
            return Response(status_code=499)  # nobody reads it
        return _Json(reply.whole(found))

    def _submit(self, job: Job) -> None:
        try:
            self._engine.submit(job)
        except InputError as error:
            raise ApiError(400, str(error), code="context_length_exceeded") from None
        except QueueFullError as error:
            raise _full(str(error)) from None
        except EngineStoppedError as error:
            raise ApiError(503, str(error), kind="server_error") from None


def _full(message: str) -> ApiError:
    headers = {"Retry-After": _RETRY_AFTER}
    return ApiError(429, message, kind="rate_limit_error", code="queue_full", headers=headers)


class _Json(JSONResponse):
    def render(self, content: object) -> bytes:
        return as_json(content)


class _Deltas:
    """Deltas from the model's thread to this one, and the entry of the log that grows beside them."""

    def __init__(self, began: float, entry: dict[str, Any]) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Delta] = asyncio.Queue()
        self._began, self.entry = began, entry

    def emit(self, delta: Delta) -> None:
        """Send a delta, from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, delta)
        except RuntimeError:
            return  # the loop is closed: the server ended before its answers

    async def get(self) -> Delta:
        """The next one."""
        delta = await self._queue.get()
        self.entry.setdefault("first_token_seconds", self.seconds)
        self.entry["completion_tokens"] = delta.tokens
        return delta

    @property
    def seconds(self) -> float:
        """Since the request came."""
        return round(time.perf_counter() - self._began, 4)


class _Answering:
    """An answer under way. However its reading ends, its job ends too."""

    def __init__(self, engine: Engine, job: Job, deltas: _Deltas, seconds: float, log: Log) -> None:
        self._engine, self._job, self._deltas, self._log = engine, job, deltas, log
        self.seconds, self._deadline = seconds, asyncio.get_running_loop().time() + seconds
        self._outcome, self._ended = _DISCONNECTED, False

    async def each(self) -> AsyncGenerator[Delta]:
        """Each delta. Raises ApiError where the model fails, the server ends, or the time is over."""
        try:
            while self._outcome == _DISCONNECTED:
                async with asyncio.timeout_at(self._deadline):
                    delta = await self._deltas.get()
                if delta.error is not None:
                    self._outcome = "error"
                    raise _failure(delta.error)
                if delta.finish_reason == "canceled":
                    self._outcome = "stopped"
                    raise ApiError(503, "the server stops", kind="server_error")
                if delta.finish_reason is not None:
                    self._outcome = delta.finish_reason
                yield delta
        except TimeoutError:
            self._outcome = "timeout"
            message = f"the answer was not complete within {self.seconds:g} s"
            raise ApiError(504, message, kind="server_error", code="timeout") from None
        finally:
            self.end()

    def end(self) -> None:
        """End the job and say so in the log, once: also where no delta was asked for, so that `each` never began."""
        if self._ended:
            return
        self._ended = True
        self._engine.cancel(self._job)
        guesses = {"guessed": self._job.guessed, "accepted": self._job.accepted} if self._job.guessed else {}
        entry = {**self._deltas.entry, **guesses, "outcome": self._outcome, "seconds": self._deltas.seconds}
        self._log({"event": "answer", **entry})

    async def all(self) -> list[Delta]:
        """All deltas, to the last one."""
        return [delta async for delta in self.each()]


class _Events(Response):
    """An answer as server-sent events: a chunk each, then [DONE]; an error object where it fails on the way."""

    def __init__(self, answering: _Answering, reply: Reply) -> None:
        super().__init__(media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        del self.headers["content-length"]
        self._answering, self._reply = answering, reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A client that does not read its answer keeps a connection so long, and its slot no longer than others do.
        seconds = self._answering.seconds + _READING_SECONDS
        try:
            with contextlib.suppress(TimeoutError):
                await unless_disconnected(receive, asyncio.wait_for(self._send_all(send), seconds))
        finally:
            self._answering.end()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            await self._send_chunks(send, self._reply.first())
            async with contextlib.aclosing(self._answering.each()) as deltas:
                async for delta in deltas:
                    await self._send_chunks(send, self._reply.chunks(delta))
            await self._send_text(send, "[DONE]")
        except ApiError as error:
            await self._send_chunks(send, [error.content])
        except OSError:
            return  # the connection broke while it was written to
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_chunks(self, send: Send, chunks: list[dict[str, Any]]) -> None:
        for chunk in chunks:
            # In ASCII: clients that split lines as Python does (httpx) would end one at U+0085, U+2028 and U+2029.
            await self._send_text(send, json.dumps(chunk, separators=(",", ":")))

    async def _send_text(self, send: Send, text: str) -> None:
        body = f"data: {text}\n\n".encode("ascii")
        await send({"type": "http.response.body", "body": body, "more_body": True})


def _failure(error: DualBinaryError) -> ApiError:
    if isinstance(error, InputError):
        return ApiError(400, str(error))
    return ApiError(500, str(error), kind="server_error")


async def unless_disconnected(receive: Callable[[], Awaitable[Message]], work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`, which is canceled where the client goes away first; None then."""
    tasks: tuple[asyncio.Task[T], asyncio.Task[None]] = (asyncio.create_task(work), asyncio.create_task(_gone(receive)))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        done = tasks[0].done()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return tasks[0].result() if done else None


async def _gone(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _api_error(request: HttpRequest, error: ApiError) -> Response:
    return _Json(error.content, error.status, error.headers)


async def _http_error(request: HttpRequest, error: HTTPException) -> Response:
    path = f"{request.method} {request.url.path}"
    message = f"{path}: {'no such route' if error.status_code == 404 else error.detail}"
    return await _api_error(request, ApiError(error.status_code, message, headers=error.headers))


async def _unexpected(request: HttpRequest, error: Exception) -> Response:
    kind = str(error) if isinstance(error, DualBinaryError) else type(error).__name__
    return await _api_error(request, ApiError(500, f"unexpected failure: {kind}", kind="server_error"))
