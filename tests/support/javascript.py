"""The examples in JavaScript, for tests: installed, or the test is skipped; and what Python says to the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime_ext.decoder import Decoder
from runtime_ext.text import TextCodec
from tests.support.tiny_models import make_model
from tests.support.tiny_tokenizers import write_tokenizer
from tools.hosts import browser, npm, transformersjs
from tools.hosts import node as node_host
from tools.hosts.task import NotHereError, Task

ROOT = npm.EXAMPLES.parent
PROMPT = [72, 33, 40, 51, 60]
COUNT = 12
END = 2  # of the tiny models' texts
_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}[assistant] "
)


def package(name: str) -> Path:
    """The folder of the repository with that package, installed; the test is skipped where that cannot be."""
    try:
        return npm.installed(ROOT / name)
    except NotHereError as error:
        pytest.skip(str(error))


def built_page() -> Path:
    """The page of examples/web as files, or the test is skipped."""
    try:
        return npm.built_page()
    except NotHereError as error:
        pytest.skip(str(error))


def continued(*command: object) -> dict[str, Any]:
    """What a script says of PROMPT, continued by COUNT tokens; options of Node.js may come before the script."""
    return npm.run_json(*command, "--ids", ",".join(map(str, PROMPT)), "--count", COUNT)


def seen(script: Path, *arguments: object) -> dict[str, Any]:
    """The JSON object that a script prints."""
    return npm.run_json(script, *arguments)


def node() -> str:
    """The command of Node.js."""
    return npm.node()


def make_source(name: str, directory: Path) -> Path:
    """A tiny model with a tokenizer and a chat template."""
    make_model(name, directory)
    write_tokenizer(directory)
    (directory / "chat_template.jinja").write_text(_TEMPLATE)
    return directory


def greedy(path: Path, ids: list[int], count: int) -> list[int]:
    """What Python continues with, by the function inside the model, whatever ends a text."""
    decoder = Decoder.load(path, library=False)
    decoder.start(len(ids) + count)
    made: list[int] = []
    logits = decoder.step(ids)
    while len(made) < count:
        made.append(int(np.argmax(logits)))
        logits = decoder.step(made[-1:])
    return made


def answers(path: Path, folder: Path, questions: list[str], count: int) -> list[str]:
    """Greedy answers of up to `count` tokens to the questions of one conversation."""
    codec = TextCodec(folder)
    messages: list[dict[str, str]] = []
    for question in questions:
        messages.append({"role": "user", "content": question})
        ids = greedy(path, codec.encode_messages(messages), count)
        messages.append({"role": "assistant", "content": codec.decode(ids[: ids.index(END)] if END in ids else ids)})
    return [message["content"] for message in messages[1::2]]


HOSTS = {"node": node_host, "browser": browser, "transformersjs": transformersjs}


def tokens_of_host(name: str, model: Path, source: Path, work: Path) -> list[int]:
    """What a host of tools/hosts says of PROMPT, continued by COUNT tokens; the test is skipped where it cannot."""
    task = Task(model, source, work, tuple(PROMPT), COUNT)
    try:
        return HOSTS[name].tokens(task)
    except NotHereError as error:
        pytest.skip(str(error))
