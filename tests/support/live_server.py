"""The server in a thread of this process, at a port that is free."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import openai
import uvicorn

from runtime_ext.batch_decoder import BatchDecoder
from runtime_ext.serve.app import Limits, make_app
from runtime_ext.serve.connections import bounded_connections
from runtime_ext.serve.engine import Engine
from runtime_ext.text import TextCodec

ASKED = [{"role": "user", "content": "Hi"}]


def client(url: str, key: str = "none") -> Any:
    """OpenAI's client, which asks once."""
    return openai.OpenAI(base_url=url, api_key=key, max_retries=0)


@contextlib.contextmanager
def serving(
    decoder: BatchDecoder,
    codec: TextCodec,
    *,
    queue: int = 8,
    limits: Limits | None = None,
    log: list | None = None,
    connections: int = 64,
    head_seconds: float = 30,
) -> Iterator[tuple[str, Engine]]:
    """The base URL of the API, and the engine behind it. The model's name is "tiny"."""
    engine = Engine(decoder, queue)
    entries = log if log is not None else []
    app = make_app(engine, codec, "tiny", limits or Limits(), entries.append)
    http = bounded_connections(connections, head_seconds)
    # Its own configuration of logging closes all handlers that there are, and absl's, which tests of evaluation bring
    # into this process, closes its stream then: that of pytest.
    quiet = {"log_config": None, "log_level": "critical"}
    config = uvicorn.Config(app, http=http, lifespan="off", timeout_graceful_shutdown=1, **quiet)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        engine.start()
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", engine
        finally:
            server.should_exit = True
            thread.join(20)
            engine.stop()
