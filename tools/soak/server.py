"""Clients of a server over HTTP, some of which vanish in the middle of an answer."""

import asyncio
import json
import time
from collections.abc import Iterator

import httpx2
import numpy as np

from benchmarks.common.served import Served, served
from runtime_ext.text import TextCodec
from tools.soak.memory import Memory
from tools.soak.task import Request, Tally, Task

NAME = "server"
SLOTS = 4
VANISHING = 0.1  # share of the answers
TIMEOUT = 600


def run(task: Task, tally: Tally, memory: Memory) -> None:
    """Answer requests until there are no more. What counts is the memory of the server."""
    options = ["--slots", str(SLOTS), "--threads", "1", "--context", str(task.room), "--queue", str(task.threads)]
    options += [] if task.library else ["--no-library"]
    with served(task.model, options) as server:
        memory.follow(server.pid)
        asyncio.run(_clients(server, task, tally))
        memory.stop()


async def _clients(server: Served, task: Task, tally: Tally) -> None:
    codec = TextCodec(task.model.parent)
    places = tally.places(len(task.requests))
    limits = httpx2.Limits(max_connections=task.threads)
    async with httpx2.AsyncClient(base_url=server.url, timeout=TIMEOUT, limits=limits) as http:
        clients = (_client(http, server.model, task, tally, places, codec, number) for number in range(task.threads))
        await asyncio.gather(*clients)


async def _client(
    http: httpx2.AsyncClient,
    model: str,
    task: Task,
    tally: Tally,
    places: Iterator[int],
    codec: TextCodec,
    number: int,
) -> None:
    random = np.random.default_rng(number)
    for place in places:
        request = task.requests[place]
        leave_after = int(random.integers(0, 6)) if random.random() < VANISHING else None
        begin = time.perf_counter()
        try:
            text = await _ask(http, model, request, leave_after)
        except (httpx2.HTTPError, ValueError) as error:
            tally.fail(f"{type(error).__name__}: {error}")
            continue
        if text is None:
            tally.count("vanished")
        else:
            expected = codec.decode(task.expected[place], request.prompt)
            tally.note(len(task.expected[place]), time.perf_counter() - begin, right=text == expected)


async def _ask(http: httpx2.AsyncClient, model: str, request: Request, leave_after: int | None) -> str | None:
    """The text of an answer, or None where the client left after so many pieces. Raises ValueError for an error."""
    body = {"model": model, "prompt": list(request.prompt), "max_tokens": request.count, "stream": True}
    body |= {"temperature": request.temperature, "seed": request.seed}
    text, pieces = "", 0
    async with http.stream("POST", "completions", json=body) as reply:
        if reply.status_code != 200:
            raise ValueError(f"status {reply.status_code}: {(await reply.aread()).decode()[:200]}")
        async for line in reply.aiter_lines():
            if pieces == leave_after:
                return None
            if line.startswith("data: {"):
                chunk = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    raise ValueError(chunk["error"]["message"])
                text += chunk["choices"][0]["text"] if chunk["choices"] else ""
                pieces += 1
    return text
