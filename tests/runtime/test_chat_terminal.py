"""`python -m runtime_ext chat` over a pseudo-terminal, and its Ctrl-C."""

import os
import select
import signal
import subprocess
import sys
import time

import pytest

from runtime_ext.chat.terminal import Interrupts


def test_one_interrupt_is_a_question_and_two_are_an_end():
    interrupts = Interrupts()
    with interrupts.caught():
        assert not interrupts.asked()
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.asked()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    with interrupts.caught():
        assert not interrupts.asked()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_at_a_terminal_answers_can_be_stopped_lines_edited_and_the_end_is_control_d(tiny_model, tmp_path):
    # Tokens come slowly, so that there is time to press Ctrl-C.
    script = (
        "import sys, time; from runtime_ext.sampling import Sampler; from runtime_ext.__main__ import main\n"
        "choose = Sampler.__call__\n"
        "Sampler.__call__ = lambda self, logits: (time.sleep(0.1), choose(self, logits))[1]\n"
        f"sys.exit(main(['chat', {str(tiny_model)!r}, '--history', {str(tmp_path / 'history')!r}]))\n"
    )
    with Terminal([sys.executable, "-c", script]) as terminal:
        terminal.until("/help lists commands, Ctrl-D leaves.")
        terminal.until("> ")
        terminal.until_interrupted("Ctrl-D or /exit leaves")
        terminal.until("> ")
        terminal.type("Hx\x7fi\n")  # a letter taken back
        terminal.until("i\r\n")
        terminal.more()  # the answer has begun
        terminal.type("\x03")
        assert "5 of 5 prompt tokens read" in terminal.until("stopped]")
        terminal.until("> ")
        terminal.type("/res\t\n")
        terminal.until("the conversation begins anew")
        terminal.until("> ")
        terminal.type("/what\n")
        terminal.until("error: /what: no such command")
        terminal.until("> ")
        terminal.type("\x04")
        assert terminal.ended() == 0
    assert (tmp_path / "history").read_text().split() == ["Hi", "/reset", "/what"]


class Terminal:
    """A command with a pseudo-terminal of its own."""

    def __init__(self, command):
        import pty

        self._leader, follower = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command,
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env=environment,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(follower)
        self._text = ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        os.close(self._leader)

    def type(self, text):
        os.write(self._leader, text.encode())

    def until(self, text, seconds=60.0):
        """What is shown up to `text`, which the next call begins after."""
        end = time.monotonic() + seconds
        while text not in self._text:
            assert self.more(max(0, end - time.monotonic())), f"no {text!r} in {self._text!r}"
        before, _, self._text = self._text.partition(text)
        return before

    def until_interrupted(self, text):
        """Press Ctrl-C until `text` is shown.

        Python notices one that comes after the prompt is shown and before it waits for keys, only at the next key.
        """
        for _ in range(20):
            time.sleep(0.3)
            self.type("\x03")
            end = time.monotonic() + 3
            while time.monotonic() < end and text not in self._text:
                self.more(max(0, end - time.monotonic()))
            if text in self._text:
                break
        return self.until(text)

    def more(self, seconds=60.0):
        """Wait until something is shown; whether it was."""
        ready, _, _ = select.select([self._leader], [], [], seconds)
        if ready:
            self._text += os.read(self._leader, 4096).decode(errors="replace")
        return bool(ready)

    def ended(self):
        return self._process.wait(timeout=60)


def _take_terminal():
    """Make the pseudo-terminal that of this process, so that Ctrl-C is a signal for it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # what runs in the background of a shell ignores it
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
