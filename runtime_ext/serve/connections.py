"""Connections of the server: at most so many at a time, and none that sends its requests by drops.

uvicorn ends a connection that is idle after an answer. One that never sends a whole head of a request it would keep for
ever, and it would take any number of them; each costs a file descriptor and some kilobytes.
"""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["bounded_connections"]


def bounded_connections(limit: int, seconds: float) -> type[H11Protocol]:
    """The protocol of uvicorn with `limit` connections; the head of a request has to be there within so many seconds.

    What is above the limit is closed at once, which a client sees as a connection that was reset.
    """

    class Bounded(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            if len(self.connections) > limit:
                transport.abort()
            else:
                self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._answering():
                self._stop_waiting()
            elif self._timer is None:
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _answering(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _wait(self) -> None:
            self._timer = self.loop.call_later(seconds, self._too_late)

        def _stop_waiting(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_late(self) -> None:
            self._timer = None
            if not self._answering() and not self.transport.is_closing():
                self.transport.abort()

    return Bounded
