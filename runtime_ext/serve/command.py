"""`python -m runtime_ext serve`: an HTTP server with the chat and text completions of the OpenAI API.

    python -m runtime_ext serve OUT.onnx [--port 8000] [--slots 4] [--context 4096] [--queue 64] [--json]

Requests are answered together as they come. The line that says where it listens goes to standard output, a line for
each answer to standard error; with `--json` both are objects on standard output. Ctrl-C or SIGTERM lets the answers
that are under way come to an end, for `--grace` seconds at most, and exits with 0. Where the model's thread fails,
which is a bug, its requests get the error, and the command exits with 1, so that what watches it can start it again.
"""

import argparse
import asyncio
import contextlib
import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualbinary import DualBinaryError, InputError
from dualbinary.cli.options import option, options_from
from runtime_ext.batch_decoder import BatchDecoder, batch_decoder
from runtime_ext.decoder import Decoder, LoadOptions
from runtime_ext.providers import Provider
from runtime_ext.serve.engine import Engine
from runtime_ext.serve.loopback import is_loopback
from runtime_ext.speculation import SPECULATE, longest_guess
from runtime_ext.text import TextCodec

__all__ = ["API_KEY", "EXAMPLES", "OPTIONS", "ServeOptions", "command"]

API_KEY = "DUALBINARY_API_KEY"  # environment variable; a command line can be read by others
DEFAULT_CONTEXT = 4096
HEAD_SECONDS = 30  # until the head of a request has arrived
_WATCH_SECONDS = 0.5  # between two looks at whether the model runs


@dataclass(frozen=True)
class ServeOptions:
    """Options of the server."""

    host: str = option("127.0.0.1", help="address to listen at; 0.0.0.0: all of this machine", metavar="ADDRESS")
    port: int = option(8000, help="port to listen at; 0: any that is free", minimum=0, maximum=65535)
    slots: int = option(4, help="sequences that the model runs at once", minimum=1)
    context: int = option(
        0,
        help="tokens of a sequence at most, prompt and answer together; 0: the model's context, at most 4096",
        minimum=0,
    )
    connections: int = option(256, help="connections at a time; more are closed", minimum=1)
    queue: int = option(64, help="requests that may wait for a slot; more are refused", minimum=0)
    speculate: str = option(
        "auto",
        help="check several guessed tokens in one run while one answer alone is written; the text stays the same. "
        "ngram, auto, none: as of the command generate",
        choices=SPECULATE,
    )
    timeout: float = option(600.0, help="seconds until an answer has to be complete", above=0)
    max_body: int = option(1 << 20, help="bytes of a request at most", minimum=1)
    grace: int = option(10, help="seconds for answers to end after Ctrl-C or SIGTERM", minimum=0)
    model_name: str | None = option(None, help="name of the model in the API; else that of its directory")
    api_key: str | None = option(None, help=f"key that clients have to send; else the variable {API_KEY}, else none")


OPTIONS = (LoadOptions, ServeOptions, Provider)
EXAMPLES = """\
examples:
  dualbinary serve OUT.onnx
  dualbinary serve OUT.onnx --host 0.0.0.0 --port 9000 --slots 8 --context 2048 --api-key secret
"""


def command(args: argparse.Namespace) -> None:
    """Run the command."""
    options, load = options_from(args, ServeOptions), options_from(args, LoadOptions)
    try:
        app = importlib.import_module("runtime_ext.serve.app")
    except ImportError as error:
        raise DualBinaryError(f"{error}; pip install 'dualbinary[serve]' has what the server needs") from None
    decoder = Decoder.load(args.model, load.threads, load.library, options_from(args, Provider))
    codec = TextCodec(args.model.parent)
    room = options.context or min(decoder.config.context_length, DEFAULT_CONTEXT)
    batch = batch_decoder(decoder, options.slots, room)
    name = options.model_name or _name_of(args.model)
    log = _Log(args.json)
    engine = Engine(batch, options.queue, longest_guess(decoder, options.speculate, library=load.library))
    key = _key(options)
    limits = app.Limits(options.max_body, seconds=options.timeout, key=key, loopback=is_loopback(options.host))
    with _listening(options) as listener:
        engine.start()
        try:
            api = app.make_app(engine, codec, name, limits, log.answer)
            asyncio.run(_serve(api, engine, listener, options, lambda: log.listening(listener, name, batch)))
        finally:
            engine.stop()
    if engine.failure is not None:
        raise engine.failure


def _key(options: ServeOptions) -> str | None:
    """The key that clients have to send. Raises InputError for one that no client can."""
    key = options.api_key or os.environ.get(API_KEY) or None
    if key is not None and not key.isprintable():
        raise InputError(f"{'--api-key' if options.api_key else API_KEY}: expected printable characters, got {key!a}")
    return key


async def _serve(
    app: Any, engine: Engine, listener: socket.socket, options: ServeOptions, ready: Callable[[], None]
) -> None:
    """Answer requests until a signal says to end, or the model fails. `ready` is called where signals are heard."""
    uvicorn = importlib.import_module("uvicorn")
    connections = importlib.import_module("runtime_ext.serve.connections")
    config = uvicorn.Config(
        app,
        http=connections.bounded_connections(options.connections, HEAD_SECONDS),
        log_level="error",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=options.grace,
        timeout_keep_alive=30,
        ws="none",
    )
    server = uvicorn.Server(config)
    # uvicorn would raise the signal again after its end: then the command would not exit with 0.
    server.capture_signals = contextlib.nullcontext
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, server.handle_exit, number, None)
        except NotImplementedError:  # Windows
            signal.signal(number, server.handle_exit)
    ready()
    watching = asyncio.create_task(_end_with(engine, server))
    await server.serve(sockets=[listener])
    watching.cancel()


async def _end_with(engine: Engine, server: Any) -> None:
    """Have the server end as by a signal once the model does not run any more."""
    while engine.alive:
        await asyncio.sleep(_WATCH_SECONDS)
    server.should_exit = True


@contextlib.contextmanager
def _listening(options: ServeOptions) -> Iterator[socket.socket]:
    """A socket at the address that the options name. Raises InputError where it cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        listener = socket.create_server((options.host, options.port), family=family, backlog=128)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
        raise InputError(f"cannot listen at {options.host} port {options.port}: {reason}") from None
    with listener:
        yield listener


def _name_of(model: Path) -> str:
    return model.resolve().parent.name or model.stem


class _Log:
    """Lines for people, or for machines."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json

    def listening(self, listener: socket.socket, model: str, batch: BatchDecoder) -> None:
        host, port = listener.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
        slots, room = batch.slots, batch.capacity
        cache = slots * room * batch.cache_bytes_per_token
        if self._json:
            facts = {"url": url, "model": model, "slots": slots, "context": room, "cache_bytes": cache}
            print(json.dumps({"event": "listening", **facts, "batched": batch.batched}), flush=True)
            return
        print(f"{model} at {url}: {slots} slots of {room} tokens, {cache / 1e6:.0f} MB of cache at most", flush=True)
        if not batch.batched and slots > 1:
            print("the cache of this model grows: sequences take turns instead of sharing runs", file=sys.stderr)

    def answer(self, entry: dict[str, Any]) -> None:
        if self._json:
            print(json.dumps(entry), flush=True)
            return
        counts = f"{entry['prompt_tokens']} prompt tokens, {entry.get('completion_tokens', 0)} new"
        if "guessed" in entry:
            counts += f", {entry['accepted']} of {entry['guessed']} guesses right"
        print(f"{entry['path']}: {counts} in {entry['seconds']:.2f} s; {entry['outcome']}", file=sys.stderr, flush=True)
