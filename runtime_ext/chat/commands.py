"""Lines that begin with a slash."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dualbinary import InputError
from dualbinary.files.atomic import write_text
from runtime_ext.chat.conversation import Conversation

__all__ = ["COMMANDS", "HELP", "Outcome", "command_of", "run_command"]


@dataclass(frozen=True)
class Outcome:
    """What is said, whether the last question is to be answered now, and whether the chat ends."""

    text: str = ""
    answer: bool = False
    leave: bool = False


def command_of(line: str) -> tuple[str, str] | None:
    """Name and argument of a line that begins with one slash; None for a message. Two slashes stand for one."""
    if not line.startswith("/") or line.startswith("//"):
        return None
    name, _, argument = line.strip().partition(" ")
    return name, argument.strip()


def run_command(conversation: Conversation, name: str, argument: str) -> Outcome:
    """Do it. Raises InputError for an unknown name, and where it cannot be done."""
    if name not in COMMANDS:
        raise InputError(f"{name}: no such command; /help lists them, and // begins a message with a slash")
    return COMMANDS[name][1](conversation, argument)


def _help(conversation: Conversation, argument: str) -> Outcome:
    return Outcome(HELP)


def _reset(conversation: Conversation, argument: str) -> Outcome:
    conversation.messages.clear()
    return Outcome("the conversation begins anew")


def _system(conversation: Conversation, argument: str) -> Outcome:
    conversation.set_system(argument)
    return Outcome("the system prompt is set" if argument else "there is no system prompt now")


def _undo(conversation: Conversation, argument: str) -> Outcome:
    question = conversation.undo()
    return Outcome("nothing to take back" if question is None else f"taken back: {_short(question)}")


def _retry(conversation: Conversation, argument: str) -> Outcome:
    question = conversation.undo()
    if question is None:
        return Outcome("nothing to answer again")
    conversation.ask(question)
    return Outcome(answer=True)


def _save(conversation: Conversation, argument: str) -> Outcome:
    if not argument:
        raise InputError("/save: name the file, as in /save talk.md; one that ends in .json gets the messages in JSON")
    try:
        path = Path(argument).expanduser()
    except RuntimeError:
        raise InputError(f"{argument}: there is no such user; name the file by its whole path") from None
    if path.exists():
        raise InputError(f"{path}: exists; choose another name")
    system = [{"role": "system", "content": conversation.system}] if conversation.system else []
    messages = [*system, *conversation.messages]
    if path.suffix == ".json":
        text = json.dumps(messages, ensure_ascii=False, indent=2) + "\n"
    else:
        text = "\n".join(f"**{message['role']}**\n\n{message['content']}\n" for message in messages)
    write_text(path, text)
    return Outcome(f"saved {len(messages)} messages to {path}")


def _exit(conversation: Conversation, argument: str) -> Outcome:
    return Outcome(leave=True)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:59]}…"


COMMANDS: dict[str, tuple[str, Callable[[Conversation, str], Outcome]]] = {
    "/help": ("list the commands", _help),
    "/reset": ("forget the conversation; the system prompt stays", _reset),
    "/system": ("TEXT: set the system prompt from now on; without a text: none", _system),
    "/undo": ("take back the last question and its answer", _undo),
    "/retry": ("answer the last question again", _retry),
    "/save": ("FILE: write the conversation, as JSON where FILE ends in .json", _save),
    "/exit": ("leave, as Ctrl-D does", _exit),
}

HELP = "\n".join(
    [
        *(f"{name:<9} {text}" for name, (text, _) in COMMANDS.items()),
        "A line that ends in a backslash goes on in the next one. Ctrl-C stops an answer. // stands for a first /.",
    ]
)
