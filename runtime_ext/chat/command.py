r"""`python -m runtime_ext chat`: talk to an exported model at the terminal.

    python -m runtime_ext chat OUT.onnx [--system TEXT] [sampling options] [--context N] [--history FILE]
    printf '%s\n' "Hello" "And now in French" | python -m runtime_ext chat OUT.onnx [--json]

Answers go to standard output, all else to standard error. A line of a pipe is a message, a JSON string where it begins
with a quotation mark. With `--json` each answer is an object on a line, and so is what a command says.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from dualbinary import InputError
from dualbinary.cli.options import option, options_from
from dualbinary.errors import OptionError
from runtime_ext.chat.commands import COMMANDS, command_of, run_command
from runtime_ext.chat.conversation import ContextFullError, Conversation, Turn
from runtime_ext.chat.terminal import Interrupts, Lines
from runtime_ext.decoder import Decoder, LoadOptions
from runtime_ext.generate import draft_option, speculate_option, speculation_for
from runtime_ext.providers import Provider
from runtime_ext.sampling import Sampler
from runtime_ext.text import TextCodec

__all__ = ["EXAMPLES", "OPTIONS", "ChatOptions", "command"]

DEFAULT_CONTEXT = 4096
WAY_ON = "/undo takes back the last question, /reset begins anew"
WAY_IN = "ask in fewer words, or choose a larger --context"
UNANSWERED = "stopped before the answer began; /retry answers the question, another one takes its place"


@dataclass(frozen=True)
class ChatOptions:
    """Options of the command beside the sampler's."""

    system: str = option("", help="system prompt, which tells the model how to answer", shown="default none")
    max_new_tokens: int = option(1024, help="tokens of an answer at most", minimum=1)
    context: int = option(
        0,
        help="tokens of the conversation at most; 0: the model's context, at most 4096",
        minimum=0,
    )
    history: Path | None = option(
        None, help="file that keeps the lines you type for the next time", metavar="FILE", shown="default none"
    )
    speculate: str = speculate_option("speculation")
    draft: Path | None = draft_option()

    def __post_init__(self) -> None:
        """Raise OptionError for two sources of guesses."""
        if self.draft is not None and self.speculate != "auto":
            raise OptionError("speculate", "no value with {draft}, which makes the guesses", self.speculate)


OPTIONS = (LoadOptions, ChatOptions, Sampler, Provider)
EXAMPLES = """\
examples:
  dualbinary chat OUT.onnx
  dualbinary chat OUT.onnx --system "Answer in one sentence." --temperature 0.7 --top-p 0.9
  printf '%s\\n' "Name a color." "Another one." | dualbinary chat OUT.onnx --json

/help lists what else there is: /reset, /system, /undo, /retry, /save. Ctrl-C stops an answer, Ctrl-D leaves.
"""


def command(args: argparse.Namespace) -> None:
    """Run the command."""
    options, load = options_from(args, ChatOptions), options_from(args, LoadOptions)
    sampler = options_from(args, Sampler)
    lines = Lines(tuple(COMMANDS), options.history)
    decoder = Decoder.load(args.model, load.threads, load.library, options_from(args, Provider))
    room = options.context or min(decoder.config.context_length, DEFAULT_CONTEXT)
    if room > decoder.config.context_length:
        raise OptionError("context", f"at most the {decoder.config.context_length} of the model", room)
    codec = TextCodec(args.model.parent)
    conversation = Conversation(decoder, codec, room, speculation_for(decoder, options, load))
    conversation.set_system(options.system)
    chat = _Chat(conversation, sampler, options.max_new_tokens, lines, as_json=args.json)
    chat.hello(args.model)
    try:
        while chat.turn():
            pass
    finally:
        lines.close()


class _Chat:
    """The loop of questions and answers."""

    def __init__(
        self, conversation: Conversation, sampler: Sampler, max_new_tokens: int, lines: Lines, *, as_json: bool
    ) -> None:
        self._conversation, self._sampler, self._most = conversation, sampler, max_new_tokens
        self._lines, self._json = lines, as_json
        self._interrupts = Interrupts()

    def hello(self, model: Path) -> None:
        """Say what is there, where somebody sees it. Raises InputError where the model has no chat template."""
        conversation = self._conversation
        conversation.messages.append({"role": "user", "content": "hello"})
        conversation.prompt()
        conversation.messages.clear()
        if self._lines.interactive:
            name = model.resolve().parent.name or model.stem
            self._note(f"{name}, {conversation.capacity} tokens of context. /help lists commands, Ctrl-D leaves.")

    def turn(self) -> bool:
        """Read a line and do what it asks for; False at the end."""
        try:
            line = self._lines.read()
        except EOFError:
            if self._lines.interactive:
                print(file=sys.stderr)
            return False
        except KeyboardInterrupt:
            if not self._lines.interactive:
                raise
            self._note("\nCtrl-D or /exit leaves")
            return True
        except InputError as error:
            return self._said(error)
        if not line.strip():
            return True
        try:
            found = command_of(line)
            if found is None:
                self._conversation.ask(line[1:] if line.startswith("//") else line)
                self._answer()
                return True
            outcome = run_command(self._conversation, *found)
            if outcome.text:
                self._note(outcome.text, command=found[0])
            if outcome.answer:
                self._answer()
            return not outcome.leave
        except (InputError, OSError) as error:
            return self._said(error)

    def _said(self, error: InputError | OSError) -> bool:
        """Say what is wrong with a line, and go on; raises it where nobody sees that."""
        if not self._lines.interactive:
            raise error
        self._note(f"error: {error}")
        return True

    def _answer(self) -> None:
        """Answer the last message, or take it back where that cannot be."""
        turn = Turn([])
        pieces: list[str] = []
        try:
            with self._interrupts.caught():
                for piece in self._conversation.answer(self._most, self._sampler, turn, self._interrupts.asked):
                    pieces.append(piece)
                    if not self._json:
                        print(piece, end="", flush=True)
        except ContextFullError as error:
            self._conversation.take_back()
            raise ContextFullError(f"{error}; {WAY_ON if self._conversation.messages else WAY_IN}") from None
        except InputError:
            self._conversation.take_back()
            raise
        finally:
            if pieces and not self._json:
                print(flush=True)  # also an error gets a line of its own
        if self._json:
            content = self._conversation.codec.decode(turn.tokens)  # with what is no whole character at its end
            print(json.dumps({"role": "assistant", "content": content, **asdict(turn)}), flush=True)
            return
        self._note(_summary(turn))
        used = turn.prompt_tokens + len(turn.tokens)
        if turn.finish_reason == "length" and used >= self._conversation.capacity:
            self._note(f"the context of {self._conversation.capacity} tokens is full; {WAY_ON}")

    def _note(self, text: str, **facts: str) -> None:
        if self._json:
            print(json.dumps({"role": "note", **facts, "content": text.strip()}), flush=True)
            return
        dim, plain = ("\x1b[2m", "\x1b[0m") if sys.stderr.isatty() else ("", "")
        print(f"{dim}{text}{plain}", file=sys.stderr, flush=True)


def _summary(turn: Turn) -> str:
    """Counts and speeds of an answer, or what becomes of its question."""
    if turn.finish_reason == "stopped" and not turn.tokens:
        return UNANSWERED
    speed = f", {found:.1f} tokens/s" if (found := turn.tokens_per_second) else ""
    read = turn.prompt_tokens - turn.cached_tokens
    line = f"[{len(turn.tokens)} tokens{speed}; {read} of {turn.prompt_tokens} prompt tokens read"
    line += f" in {turn.prompt_seconds:.2f} s"
    if turn.guessed:
        line += f"; {turn.accepted} of {turn.guessed} guesses right"
    return f"{line}; {turn.finish_reason}]"
