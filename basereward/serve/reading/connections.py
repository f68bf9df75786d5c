"""The HTTP/1.1 connection of a client, with a limit on the time in which the header of a request arrives, and with an
end when the server stops.

uvicorn limits how long a connection is idle, but not how long a header takes: a client that sends one byte a minute, or
nothing at all, would keep its connection for ever, and a few thousand of them would lock out all others. When it stops,
uvicorn waits for the answers of requests that have begun to arrive, and so for clients that never complete them.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

TEXT = b"text/plain; charset=utf-8"


class LimitedConnection(H11Protocol):
    """A connection that is closed when the client has begun something and does not complete it in time.

    Attributes:
        arrival_s: seconds in which the header of a request must arrive, and in which the rest of a body must arrive
            whose request has been refused already. The application limits the time of other bodies.
    """

    arrival_s: ClassVar[float] = 30.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Waits for the first request."""
        super().connection_made(transport)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Reads data, and starts or ends the time for what is incomplete."""
        super().data_received(data)
        self._update_timer()

    def on_response_complete(self) -> None:
        """Goes on to the next request, whose beginning may have arrived already."""
        super().on_response_complete()
        self._update_timer()

    def shutdown(self) -> None:
        """Closes the connection when the server stops; a request that has arrived is answered first."""
        if self.conn.their_state is h11.SEND_BODY and self.conn.our_state is h11.SEND_RESPONSE:
            self._close(HTTPStatus.SERVICE_UNAVAILABLE, "the server stops, and the request has not arrived")
        else:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        self._stop_timer()
        super().connection_lost(exc)

    def _is_incomplete(self) -> bool:
        """Whether a part of a header has arrived, or a part of a body that nobody reads."""
        if self.conn.their_state is h11.IDLE:
            return bool(self.conn.trailing_data[0])
        return self.conn.their_state is h11.SEND_BODY and self.conn.our_state is h11.DONE

    def _update_timer(self) -> None:
        if self._is_incomplete():
            self._start_timer()
        else:
            self._stop_timer()

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.arrival_s, self._end)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> None:
        """Closes the connection because the time is over."""
        self._close(HTTPStatus.REQUEST_TIMEOUT, f"the header of the request is not complete after {self.arrival_s:g} s")

    def _close(self, status: HTTPStatus, text: str) -> None:
        """Closes the connection; before an answer has begun, with one that says why."""
        if self.transport.is_closing():
            return
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            headers = [(b"content-type", TEXT), (b"connection", b"close")]
            for event in (
                h11.Response(status_code=status, headers=headers, reason=status.phrase.encode()),
                h11.Data(data=text.encode()),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def limited_connection(arrival_s: float) -> type[LimitedConnection]:
    """The class of connections with a limit of `arrival_s` seconds.

    >>> limited_connection(5.0).arrival_s
    5.0
    """
    # uvicorn makes the connections itself, from a class.
    return type("LimitedConnection", (LimitedConnection,), {"arrival_s": arrival_s})
