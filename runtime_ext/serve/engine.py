"""The thread that runs the model: takes jobs from other threads, and batches those that are there."""

import threading
import traceback
from collections.abc import Callable

from dualbinary import DualBinaryError
from runtime_ext.batch_decoder import BatchDecoder
from runtime_ext.batcher import Batcher, CallbackError, Job
from runtime_ext.generation import answer_limit

__all__ = ["Engine", "EngineStoppedError", "QueueFullError"]


class QueueFullError(DualBinaryError):
    """No more jobs are taken for now."""


class EngineStoppedError(DualBinaryError):
    """The model does not run any more."""


class Engine:
    """A model thread. `submit` and `cancel` are for any thread; the callbacks of a job are called on the model's."""

    def __init__(self, decoder: BatchDecoder, queue: int, longest_guess: int = 0) -> None:
        """Up to `queue` jobs wait for a slot. One that runs alone has guesses as of Batcher. `start` begins."""
        self.decoder = decoder
        self._batcher = Batcher(decoder, longest_guess)
        self._limit = decoder.slots + queue
        self._jobs: set[Job] = set()
        self._inbox: list[Callable[[], None]] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._failure: DualBinaryError | None = None
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End all jobs as canceled, and the thread after the run of the model that is under way."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    @property
    def limit(self) -> int:
        """Jobs that are taken at most: those with a slot, and those that wait."""
        return self._limit

    @property
    def alive(self) -> bool:
        """True while jobs are taken."""
        return self._thread.is_alive() and not self._stopping

    @property
    def failure(self) -> DualBinaryError | None:
        """Why the thread ended by itself; None where it did not."""
        return self._failure

    @property
    def jobs(self) -> int:
        """Jobs that have not ended."""
        return len(self._jobs)

    def submit(self, job: Job) -> None:
        """Take a job.

        Raises InputError where its prompt is empty or leaves no room in a slot, QueueFullError where too many wait,
        and EngineStoppedError after `stop` or an unexpected failure.
        """
        answer_limit(job.prompt, job.max_new_tokens, self.decoder.capacity)
        end = job.on_end

        def ended(reason: str | DualBinaryError) -> None:
            with self._changed:
                self._jobs.discard(job)
            if isinstance(reason, CallbackError):  # a bug; whoever runs the server has to hear of it
                traceback.print_exception(reason)
            try:
                end(reason)
            except Exception:  # a bug as well; the job has ended, and others go on
                traceback.print_exc()

        job.on_end = ended
        with self._changed:
            if not self.alive:
                raise EngineStoppedError("the model does not run any more")
            if len(self._jobs) >= self._limit:
                waiting = len(self._jobs) - self.decoder.slots
                raise QueueFullError(f"{waiting} requests wait already, and no more are taken; try again later")
            self._jobs.add(job)
            self._inbox.append(lambda: self._batcher.add(job))
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """End a job as canceled, unless it has ended; returns before."""
        with self._changed:
            self._inbox.append(lambda: self._batcher.cancel(job))
            self._changed.notify()

    def _work(self) -> None:
        try:
            while self._take():
                self._batcher.advance()
        except Exception as error:  # a bug; those who wait have to hear of it
            traceback.print_exc()
            self._failure = DualBinaryError(f"the model thread failed: {type(error).__name__}: {error}")
        with self._changed:
            self._stopping = True
            left = list(self._jobs)
        for job in left:
            job.on_end(self._failure or "canceled")

    def _take(self) -> bool:
        """Wait until there is something to do, and take in what came; False when it is to stop."""
        with self._changed:
            while not (self._inbox or self._batcher.busy or self._stopping):
                self._changed.wait()
            inbox, self._inbox = self._inbox, []
        if self._stopping:
            return False
        for action in inbox:
            action()
        return True
